"""One exchange of a write: commands out while replies come in, on a connected plain socket.

The socket belongs to a redis-py connection, as in `hotfeast.hotpath.link`. The next portion of
commands is made while Redis works on those before it, and never more than a few are under way, so
that memory does not grow with the number of rows.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memmove

from hotfeast.hotpath.link cimport (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    POLLIN,
    POLLOUT,
    monotonic_ns,
    poll,
    pollfd,
    recv,
    send,
)
from hotfeast.hotpath.writes cimport WriteBatch

from hotfeast.hotpath.errors import ProtocolError

cdef enum:
    READ_SIZE = 65536
    # Bytes that wait to be sent, below which the next portion is made.
    LOW_WATER = 65536
    # Rows under way at most; their commands fill the socket's buffers long before.
    ROWS_AHEAD = 65536

cdef enum Outcome:
    DONE = 0
    BROKEN = 1
    CLOSED = 2
    TIMED_OUT = 3
    SOCKET_ERROR = 4
    NO_MEMORY = 5


cdef Outcome transfer(int fd, WriteBatch batch, int64_t patience_ns) noexcept nogil:
    """Sends what is pending and takes the replies. Gives up after `patience_ns` without a reply."""
    cdef size_t sent = 0
    cdef ssize_t count
    cdef int64_t remaining, deadline_ns = monotonic_ns() + patience_ns
    cdef pollfd wait
    cdef int ready
    cdef uint32_t done
    wait.fd = fd
    while True:
        if batch.out_size - sent < LOW_WATER and batch.next_row < batch.rows:
            if batch.sent_rows - batch.done_rows < ROWS_AHEAD:
                if sent > 0:
                    memmove(batch.out, batch.out + sent, batch.out_size - sent)
                    batch.out_size -= sent
                    sent = 0
                if batch.fill() != 0:
                    return NO_MEMORY
        if sent < batch.out_size:
            count = send(fd, batch.out + sent, batch.out_size - sent, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count > 0:
                sent += <size_t>count
            elif count < 0 and errno not in (EAGAIN, EINTR):
                return SOCKET_ERROR
        elif batch.next_row == batch.rows and batch.done_calls == batch.sent_calls:
            return DONE
        wait.events = POLLIN | POLLOUT if sent < batch.out_size else POLLIN
        remaining = (deadline_ns - monotonic_ns() + 999999) // 1000000
        if remaining <= 0:
            return TIMED_OUT
        wait.revents = 0
        ready = poll(&wait, 1, <int>min(remaining, <int64_t>0x7FFFFFFF))
        if ready < 0 and errno != EINTR:
            return SOCKET_ERROR
        if ready <= 0 or not wait.revents & ~POLLOUT:
            continue
        if batch.make_room(READ_SIZE) != 0:
            return NO_MEMORY
        count = recv(fd, batch.pending_in + batch.in_size, READ_SIZE, MSG_DONTWAIT)
        if count == 0:
            return CLOSED
        if count < 0:
            if errno in (EAGAIN, EINTR):
                continue
            return SOCKET_ERROR
        batch.in_size += <size_t>count
        done = batch.done_calls
        if batch.take_replies() != 0:
            return BROKEN
        if batch.done_calls > done:
            deadline_ns = monotonic_ns() + patience_ns


def exchange_writes(int fd, WriteBatch batch not None, double patience) -> None:
    """Sends a batch's pending rows and takes the outcome of each.

    After an exception the connection is out of step and must be closed; rows without a reply are
    still pending, and may have been written all the same.

    Args:
        fd: A connected stream socket, not encrypted.
        patience: Seconds to wait for each next reply.

    Raises:
        ProtocolError: The replies are not RESP, or not to these commands.
        ConnectionError: The server closed the connection.
        TimeoutError: There was no reply for too long.
        OSError: The socket failed.
    """
    cdef Outcome outcome
    cdef int error
    batch.begin()
    with nogil:
        outcome = transfer(fd, batch, <int64_t>(patience * 1e9))
        error = errno
    if outcome == DONE:
        return
    if outcome == TIMED_OUT:
        raise TimeoutError(f"Redis did not answer within {patience:.3g} s")
    if outcome == CLOSED:
        raise ConnectionResetError("Redis closed the connection")
    if outcome == BROKEN:
        raise ProtocolError("Redis' reply is not the RESP reply to what was sent")
    if outcome == NO_MEMORY:
        raise MemoryError
    raise OSError(error, "the connection to Redis failed")
