# TLS between the bytes of a socket and those of a connection.

from libc.stdint cimport uint8_t


cdef class Tls:
    cdef readonly bint ready      # the handshake is over
    cdef readonly bint begun      # the client has sent something
    cdef object session           # ssl.SSLObject
    cdef object incoming          # ssl.MemoryBIO: what has come from the socket
    cdef object outgoing          # ssl.MemoryBIO: what is to go there
    cdef bytes sealed             # of that, what is being sent
    cdef size_t sent              # bytes of it that have been

    cdef int take(self, const uint8_t* data, size_t size) except -1
    cdef int shake(self) except -1
    cdef Py_ssize_t read(self, uint8_t* room, size_t size) except -2
    cdef bint has_more(self)
    cdef int seal(self, const uint8_t* data, size_t size) except -1
    cdef bint next_sealed(self) except -1
    cdef int say_goodbye(self) except -1
