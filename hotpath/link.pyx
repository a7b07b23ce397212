"""One round trip: all commands out, all replies in, on a connected plain socket; and a second one
where packed rows turn out not to be the last word.

The socket belongs to a redis-py connection, which has made it (address, authentication, database)
and will close it. Here it is only written and read, without the GIL.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from hotfeast.hotpath.batch cimport Batch, Outgoing
from hotfeast.hotpath.cache cimport RowCache
from hotfeast.hotpath.judge cimport judge_ready
from hotfeast.hotpath.packed cimport ASK_AGAIN, SETTLE_NO_MEMORY, Settled, settle
from hotfeast.hotpath.reply cimport (
    SCAN_BROKEN,
    SCAN_MORE,
    SCAN_NO_MEMORY,
    Reply,
    ScanState,
)

from hotfeast.hotpath.errors import ProtocolError

cdef enum:
    READ_SIZE = 65536
    # Chunks that are sent ahead of the replies: while one is parsed, Redis works on the next.
    AHEAD = 2

cdef int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef void begin_transfer(Transfer* transfer, const Outgoing* out) noexcept nogil:
    """Starts on commands."""
    transfer.sent = 0
    transfer.chunk = 0
    transfer.limit = out.chunks[min(<uint32_t>AHEAD, out.chunk_count) - 1].end


cdef Outcome send_more(int fd, const Outgoing* out, Transfer* transfer) noexcept nogil:
    """Sends what may be sent now and fits the socket's buffer. Returns PENDING or SOCKET_ERROR."""
    cdef ssize_t count
    if transfer.sent < transfer.limit:
        count = send(
            fd, out.commands + transfer.sent, transfer.limit - transfer.sent,
            MSG_DONTWAIT | MSG_NOSIGNAL,
        )
        if count > 0:
            transfer.sent += <size_t>count
        elif count < 0 and errno not in (EAGAIN, EINTR):
            return SOCKET_ERROR
    return PENDING


cdef Outcome receive_some(int fd, Reply reply) noexcept nogil:
    """Takes what has come, once. Returns DONE once the replies are complete, or why they cannot be
    read, or PENDING."""
    cdef ScanState state
    cdef ssize_t count
    if reply.make_room(READ_SIZE) != 0:
        return NO_MEMORY
    count = recv(fd, reply.buffer + reply.received, reply.capacity - reply.received, MSG_DONTWAIT)
    if count == 0:
        return CLOSED
    if count < 0:
        return PENDING if errno in (EAGAIN, EINTR) else SOCKET_ERROR
    reply.received += <size_t>count
    state = reply.scan()
    if state == SCAN_BROKEN:
        return BROKEN
    if state == SCAN_NO_MEMORY:
        return NO_MEMORY
    return PENDING if state == SCAN_MORE else DONE


cdef void allow_more(const Outgoing* out, Reply reply, Transfer* transfer) noexcept nogil:
    """Lets further commands be sent as replies to earlier ones have come."""
    while (
        transfer.chunk < out.chunk_count
        and reply.commands_done >= out.chunks[transfer.chunk].commands
    ):
        transfer.chunk += 1
    transfer.limit = out.chunks[min(transfer.chunk + AHEAD, out.chunk_count) - 1].end


cdef Outcome receive_more(int fd, Batch batch, Reply reply, Transfer* transfer) noexcept nogil:
    """Takes what has come, once. Where the first replies are complete and there are further
    commands, starts on them. Returns DONE once all cells are known, or why there are none, or
    PENDING; after that, there may be more to send."""
    cdef Outgoing* out = batch.out
    cdef Settled settled
    cdef uint32_t done = reply.commands_done
    cdef Outcome outcome = receive_some(fd, reply)
    if outcome == PENDING:
        if reply.commands_done != done:
            judge_ready(batch, reply)
            allow_more(out, reply, transfer)
        return PENDING
    if outcome != DONE:
        return outcome
    judge_ready(batch, reply)
    if transfer.sent != out.size:
        # A reply that is complete before its commands are sent is somebody else's.
        return BROKEN
    if reply.settled or reply.error_size > 0:
        return DONE
    settled = settle(batch, reply)
    if settled == SETTLE_NO_MEMORY:
        return NO_MEMORY
    if settled == ASK_AGAIN:
        begin_transfer(transfer, batch.out)
        return PENDING
    return DONE


cdef Outcome transfer_all(int fd, Batch batch, Reply reply, int64_t deadline_ns) noexcept nogil:
    """Writes and reads until all cells are known.

    Reading goes on while there is something left to write: the server answers the first commands
    while it is sent the last, and neither side's socket buffer fills up. The batch's chunks go out
    as the replies to earlier ones come in.
    """
    cdef Transfer transfer
    cdef Outcome outcome
    cdef int64_t remaining
    cdef pollfd wait
    cdef int ready
    begin_transfer(&transfer, batch.out)
    wait.fd = fd
    while True:
        if send_more(fd, batch.out, &transfer) != PENDING:
            return SOCKET_ERROR
        wait.events = POLLIN | POLLOUT if transfer.sent < transfer.limit else POLLIN
        remaining = (deadline_ns - monotonic_ns() + 999999) // 1000000
        if remaining <= 0:
            return TIMED_OUT
        wait.revents = 0
        ready = poll(&wait, 1, <int>min(remaining, <int64_t>0x7FFFFFFF))
        if ready < 0 and errno != EINTR:
            return SOCKET_ERROR
        if ready <= 0 or not wait.revents & ~POLLOUT:
            continue
        outcome = receive_more(fd, batch, reply, &transfer)
        if outcome != PENDING:
            return outcome


cdef object failure_of(Outcome outcome, int error, double timeout):
    """The exception for an outcome that is neither DONE nor PENDING."""
    if outcome == TIMED_OUT:
        return TimeoutError(f"Redis did not answer within {timeout:.3g} s")
    if outcome == CLOSED:
        return ConnectionResetError("Redis closed the connection")
    if outcome == BROKEN:
        return ProtocolError("Redis' reply is not the RESP reply to what was asked")
    if outcome == NO_MEMORY:
        return MemoryError()
    return OSError(error, "the connection to Redis failed")


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
    cdef int error
    if (reply.begin(batch) if cache is None else cache.begin(batch, reply)) != 0:
        raise MemoryError
    if batch.out.size == 0:
        settle(batch, reply)
        return
    with nogil:
        outcome = transfer_all(fd, batch, reply, deadline)
        error = errno
    if outcome != DONE:
        raise failure_of(outcome, error, timeout)
    reply.raise_error()
    if cache is not None:
        cache.keep(batch, reply)
