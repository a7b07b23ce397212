"""TLS between the bytes of a socket and those of a connection: OpenSSL, by way of Python's `ssl`.

The loop sends and receives as it does without TLS, and what it sends and receives goes through
memory, so that one system call takes many records and nothing here ever waits.
"""

from ssl import MemoryBIO, SSLWantReadError, SSLZeroReturnError

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t


cdef class Tls:
    """The server's end of TLS on one connection, without its socket.

    Attributes:
        ready: Whether the handshake is over.
        begun: Whether the client has sent something.
    """

    def __cinit__(self, object context not None):
        """
        Args:
            context: An `ssl.SSLContext` of a server; the connection keeps it, whatever becomes of
                the files that it was made of.
        """
        self.incoming = MemoryBIO()
        self.outgoing = MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    @property
    def protocol(self) -> str | None:
        """The protocol that was agreed on (ALPN); None for none."""
        return self.session.selected_alpn_protocol()

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, which has been verified; None where it sent none."""
        return self.session.getpeercert(binary_form=True)

    cdef int take(self, const uint8_t* data, size_t size) except -1:
        """Takes bytes of the socket."""
        self.begun = True
        self.incoming.write(PyMemoryView_FromMemory(<char*>data, <Py_ssize_t>size, PyBUF_READ))
        return 0

    cdef int shake(self) except -1:
        """Goes on with the handshake.

        Raises:
            ssl.SSLError: It has failed.
        """
        try:
            self.session.do_handshake()
        except SSLWantReadError:
            return 0
        self.ready = True
        return 0

    cdef Py_ssize_t read(self, uint8_t* room, size_t size) except -2:
        """Reads what the client has said, of one record at most.

        Returns:
            How many bytes; 0 where more has to come first, -1 where the client has said goodbye.

        Raises:
            ssl.SSLError: It is not what a client may send.
        """
        cdef Py_ssize_t count
        try:
            count = self.session.read(
                size, PyMemoryView_FromMemory(<char*>room, <Py_ssize_t>size, PyBUF_WRITE)
            )
        except SSLWantReadError:
            return 0
        except SSLZeroReturnError:
            return -1
        return count if count > 0 else -1

    cdef bint has_more(self):
        """Whether bytes have come that have not been looked at."""
        return self.incoming.pending > 0 or self.session.pending() > 0

    cdef int seal(self, const uint8_t* data, size_t size) except -1:
        """Encrypts bytes, for `next_sealed` to give.

        Raises:
            ssl.SSLError: That cannot be.
        """
        self.session.write(PyMemoryView_FromMemory(<char*>data, <Py_ssize_t>size, PyBUF_READ))
        return 0

    cdef bint next_sealed(self) except -1:
        """Has `sealed` be what is to be sent next; false where there is nothing."""
        self.sent = 0
        self.sealed = None
        if self.outgoing.pending == 0:
            return False
        self.sealed = self.outgoing.read()
        return True

    cdef int say_goodbye(self) except -1:
        """Tells the client that nothing more comes."""
        try:
            self.session.unwrap()
        except SSLWantReadError:
            # It has not said the same yet, and need not.
            pass
        return 0
