# An exchange with Redis in steps, and the system calls that it is made of.

from libc.stdint cimport int64_t, uint32_t

from hotfeast.hotpath.batch cimport Batch, Outgoing
from hotfeast.hotpath.reply cimport Reply

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN
    short POLLOUT

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t recv(int fd, void* data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef int64_t monotonic_ns() noexcept nogil

cdef enum Outcome:
    DONE = 0
    BROKEN = 1
    CLOSED = 2
    TIMED_OUT = 3
    SOCKET_ERROR = 4
    NO_MEMORY = 5
    PENDING = 6

# How far the commands at hand have been sent.
cdef struct Transfer:
    size_t sent
    size_t limit              # up to where they may be sent before more replies have come
    uint32_t chunk

cdef void begin_transfer(Transfer* transfer, const Outgoing* out) noexcept nogil
cdef Outcome send_more(int fd, const Outgoing* out, Transfer* transfer) noexcept nogil
cdef Outcome receive_some(int fd, Reply reply) noexcept nogil
cdef void allow_more(const Outgoing* out, Reply reply, Transfer* transfer) noexcept nogil
cdef Outcome receive_more(int fd, Batch batch, Reply reply, Transfer* transfer) noexcept nogil
cdef object failure_of(Outcome outcome, int error, double timeout)
