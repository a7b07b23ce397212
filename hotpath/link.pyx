"""One round trip: all commands out, all replies in, on a connected plain socket; and a second one
where packed rows turn out not to be the last word.

The socket belongs to a redis-py connection, which has made it (address, authentication, database)
and will close it. Here it is only written and read, without the GIL.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.cache cimport RowCache
from hotfeast.hotpath.packed cimport ASK_AGAIN, SETTLE_NO_MEMORY, SETTLED, Settled, settle
from hotfeast.hotpath.reply cimport (
    SCAN_BROKEN,
    SCAN_DONE,
    SCAN_NO_MEMORY,
    Reply,
    ScanState,
)

from hotfeast.hotpath.errors import ProtocolError

cdef enum:
    READ_SIZE = 65536
    # Chunks that are sent ahead of the replies: while one is parsed, Redis works on the next.
    AHEAD = 2

cdef enum Outcome:
    DONE = 0
    BROKEN = 1
    CLOSED = 2
    TIMED_OUT = 3
    SOCKET_ERROR = 4
    NO_MEMORY = 5


cdef int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef Outcome transfer(int fd, Batch batch, Reply reply, int64_t deadline_ns) noexcept nogil:
    """Writes and reads until the replies are complete.

    Reading goes on while there is something left to write: the server answers the first commands
    while it is sent the last, and neither side's socket buffer fills up. The batch's chunks go out
    as the replies to earlier ones come in.
    """
    cdef size_t sent = 0, limit
    cdef uint32_t chunk = 0
    cdef ssize_t count
    cdef int64_t remaining
    cdef ScanState state
    cdef pollfd wait
    cdef int ready
    wait.fd = fd
    limit = batch.out.chunks[min(<uint32_t>AHEAD, batch.out.chunk_count) - 1].end
    while True:
        if sent < limit:
            count = send(fd, batch.out.commands + sent, limit - sent, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count > 0:
                sent += <size_t>count
            elif count < 0 and errno not in (EAGAIN, EINTR):
                return SOCKET_ERROR
        wait.events = POLLIN | POLLOUT if sent < limit else POLLIN
        remaining = (deadline_ns - monotonic_ns() + 999999) // 1000000
        if remaining <= 0:
            return TIMED_OUT
        wait.revents = 0
        ready = poll(&wait, 1, <int>min(remaining, <int64_t>0x7FFFFFFF))
        if ready < 0 and errno != EINTR:
            return SOCKET_ERROR
        if ready <= 0 or not wait.revents & ~POLLOUT:
            continue
        if reply.make_room(READ_SIZE) != 0:
            return NO_MEMORY
        count = recv(fd, reply.buffer + reply.received, reply.capacity - reply.received,
                     MSG_DONTWAIT)
        if count == 0:
            return CLOSED
        if count < 0:
            if errno in (EAGAIN, EINTR):
                continue
            return SOCKET_ERROR
        reply.received += <size_t>count
        state = reply.scan()
        if state == SCAN_DONE:
            # A reply that is complete before its commands are sent is somebody else's.
            return DONE if sent == batch.out.size else BROKEN
        if state == SCAN_BROKEN:
            return BROKEN
        if state == SCAN_NO_MEMORY:
            return NO_MEMORY
        while chunk < batch.out.chunk_count and reply.commands_done >= batch.out.chunks[chunk].commands:
            chunk += 1
        limit = batch.out.chunks[min(chunk + AHEAD, batch.out.chunk_count) - 1].end


def exchange(
    int fd, Batch batch not None, Reply reply not None, double timeout, RowCache cache=None
) -> None:
    """Sends a batch's commands and reads all of their replies.

    After any exception but ReplyError the connection is out of step and must be closed.

    Args:
        fd: A connected stream socket, not encrypted.
        timeout: Seconds for all of it.
        cache: What it has is not asked for; what has been read is kept in it.

    Raises:
        ReplyError: Redis answered a command with an error.
        ProtocolError: The reply is not RESP, or not the reply to these commands.
        ConnectionError: The server closed the connection.
        TimeoutError: The time was up.
        OSError: The socket failed.
    """
    cdef int64_t deadline = monotonic_ns() + <int64_t>(timeout * 1e9)
    cdef Outcome outcome
    cdef Settled settled = SETTLED
    cdef int error
    if (reply.begin(batch) if cache is None else cache.begin(batch, reply)) != 0:
        raise MemoryError
    if batch.out.size == 0:
        settle(batch, reply)
        return
    with nogil:
        outcome = transfer(fd, batch, reply, deadline)
        error = errno
        if outcome == DONE and not reply.settled and reply.error_size == 0:
            settled = settle(batch, reply)
            if settled == ASK_AGAIN:
                outcome = transfer(fd, batch, reply, deadline)
                error = errno
                if outcome == DONE and reply.error_size == 0:
                    settled = settle(batch, reply)
            if settled == SETTLE_NO_MEMORY:
                outcome = NO_MEMORY
    if outcome == DONE:
        reply.raise_error()
        if cache is not None:
            cache.keep(batch, reply)
    elif outcome == TIMED_OUT:
        raise TimeoutError(f"Redis did not answer within {timeout:.3g} s")
    elif outcome == CLOSED:
        raise ConnectionResetError("Redis closed the connection")
    elif outcome == BROKEN:
        raise ProtocolError("Redis' reply is not the RESP reply to what was asked")
    elif outcome == NO_MEMORY:
        raise MemoryError
    else:
        raise OSError(error, "the connection to Redis failed")
