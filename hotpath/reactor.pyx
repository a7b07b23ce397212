"""The loop that clients' connections and reads from Redis share: epoll, one thread, no waiting.

A request is parsed where it arrives, its commands go to Redis on an idle connection, and while
Redis works on them the loop serves others; nothing is handed from thread to thread. Whatever might
wait or compute for long is done by other threads, which have the loop called back.
"""

import os
import random
from collections import deque
from ssl import SSLError

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport close

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.http2 cimport INADEQUATE_SECURITY, Connection, Stream
from hotfeast.hotpath.link cimport (
    DONE,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    PENDING,
    TIMED_OUT,
    Outcome,
    begin_transfer,
    failure_of,
    monotonic_ns,
    receive_more,
    recv,
    send,
    send_more,
)
from hotfeast.hotpath.packed cimport settle
from hotfeast.hotpath.scatter cimport Part, Scatter, step_part
from hotfeast.hotpath.splice cimport Response
from hotfeast.hotpath.tls cimport Tls

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int poller, int operation, int fd, epoll_event* event)
    int epoll_wait(int poller, epoll_event* events, int most, int timeout_ms)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int eventfd_read(int fd, uint64_t* value)
    int eventfd_write(int fd, uint64_t value)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    int accept4(int fd, sockaddr* address, unsigned int* size, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)
    int SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_KEEPALIVE

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP "6"
    int TCP_NODELAY

cdef enum:
    MOST_EVENTS = 256
    READ_SIZE = 65536
    # Bytes that are encrypted at once: while they are sent nothing more is.
    SEAL_SIZE = 262144
    # The first byte of a client that speaks TLS (RFC 8446, section 5.1).
    TLS_HANDSHAKE = 22
    # Bytes of the longest `sockaddr` of a client.
    ADDRESS_SIZE = 28
    # Bytes of an answer that are written before they are sent: with less the client has more to do
    # for each piece than it gains by reading early.
    PIECE_SIZE = 262144
    # Milliseconds between two looks at the deadlines of reads that are under way.
    DEADLINE_LOOKS = 2
    # Milliseconds before clients are accepted again when there were no descriptors left.
    ACCEPT_PAUSE = 50
    # Calls that a client may have at once, unless it is said.
    MOST_STREAMS = 1024

cdef:
    # Seconds between two looks at clients: usually at most, at least, and in a drain.
    double LOOKS = 1.0
    double LEAST_LOOKS = 0.01
    # Seconds after which a client that has been warned to go elsewhere must know.
    double WARNING = 1.0
    # Seconds that a client which has gone elsewhere has to close its connection once all its calls
    # are answered. Closing it from here while the client writes would lose it the answers that it
    # has not read.
    double LINGER = 0.5
    # Seconds to read why its connection has failed.
    double FAREWELL = 5.0
    # Seconds that a client without TLS has to make calls, and to be told that it needs that.
    double REFUSING = 1.0
    # Seconds of waiting for events after which there was none before: those that there are then
    # have just come.
    double WAITED = 2e-5


cdef double now() noexcept nogil:
    return <double>monotonic_ns() / 1e9


cdef class LoopLane:
    """A connection to Redis that the loop reads with.

    Attributes:
        lane: The connection on loan from redis-py.
        descriptor: Its socket's.
        reply: What is read into.
        node: The node of a cluster that it leads to; None where there is one server.
    """

    def __cinit__(
        self, object lane not None, int descriptor, Reply reply not None, str node=None
    ):
        self.lane = lane
        self.node = node
        self.descriptor = descriptor
        self.reply = reply


cdef class Reactor:
    """Runs in one thread; only `call` may be used by others.

    Subclasses answer: `answer(stream, message)` and `answer_packed(stream, message)` for the
    methods in `at_once`, and `open(stream, headers)` for all others, as `hotfeast.hotpath.http2`
    has it; `lane_lost(lane)` is told of a connection to Redis that is gone, and `lane_free()` of
    one that can be used again, where `wants_lane` is set.

    Attributes:
        cache: Rows that need not be asked for; None at first.
        slots: Which node of a cluster has which slot; None where there is one server.
        keeps_callers: Whether streams are told who calls; not at first.
        authenticates: Whether streams are told with which token; not at first.
        tls_context: What clients that come from now on are encrypted with; None at first, for
            nothing.
        admission: Says whether reads are taken on; None, for all, at first.
        most_streams: Calls that a client may have at once.
        arrived_at: When the call that `answer` is told of had arrived, at the earliest: when the
            loop last knew that there was no more of it. In monotonic seconds.
        wants_lane: Whether somebody waits for an idle connection to Redis.
        piece_size: Bytes of a large answer that are written before they are sent.
        client_count: The clients of the moment; for any thread.
        afterwards: Functions that are called once what this turn answers has been sent: what
            nobody waits for.
    """

    def __cinit__(self, object at_once not None, *args, **kwargs):
        """
        Args:
            at_once: Paths of unary methods that `answer` is told of.
        """
        self.at_once = at_once
        self.watched = {}
        self.calls = deque()
        self.dirty = []
        self.afterwards = []
        self.idle = []
        self.idle_at = {}
        self.busy = []
        self.paused = []
        self.look_every = LOOKS
        self.piece_size = PIECE_SIZE
        self.most_streams = MOST_STREAMS
        self.arrived_at = self.looked = now()
        self.poller = epoll_create1(EPOLL_CLOEXEC)
        self.waker = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.poller < 0 or self.waker < 0:
            raise OSError(errno, os.strerror(errno))
        self.watch(self.waker, None, EPOLLIN)

    def __dealloc__(self):
        free(self.arrived)
        if self.poller >= 0:
            close(self.poller)
        if self.waker >= 0:
            close(self.waker)

    # ------------------------------------------------------------ for subclasses

    def clock(self) -> float:
        """Monotonic seconds."""
        return now()

    def call(self, function) -> None:
        """Has a function called by the loop, soon; from any thread."""
        self.calls.append(function)
        eventfd_write(self.waker, 1)

    def listen(self, object listener not None) -> None:
        """Accepts connections of a listening socket that does not block."""
        self.watch(listener.fileno(), listener, EPOLLIN)

    def stop_listening(self, object listener not None, bint take_waiting=True) -> None:
        """Accepts no more connections of a socket, and closes it.

        Args:
            listener: The socket.
            take_waiting: Whether those that wait by now are accepted.
        """
        cdef int descriptor = listener.fileno()
        if take_waiting:
            self.accept_all(descriptor)
        self.unwatch(descriptor)
        listener.close()

    def set_limits(
        self, double handshake, double idle, double age, double age_grace, double keepalive,
        double keepalive_answer,
    ) -> None:
        """Limits how long clients may be silent, and stay; again, as they are changed. All in
        seconds, 0 for no limit.

        Args:
            handshake: Until a client has said that it speaks HTTP/2.
            idle: Without a call, after which a client is sent elsewhere.
            age: After which a client is sent elsewhere, a tenth more or less; of those that come.
            age_grace: For the calls of one that is sent elsewhere.
            keepalive: Without a word, after which a client is asked whether it is there.
            keepalive_answer: For the answer.
        """
        self.handshake_limit = handshake
        self.idle_limit = idle
        self.age_limit = age
        self.age_grace = age_grace
        self.keepalive = keepalive
        self.keepalive_limit = keepalive_answer
        self.look_every = LEAST_LOOKS if self.draining else LOOKS
        for limit in (handshake, idle, age, age_grace, keepalive, keepalive_answer):
            if limit > 0:
                self.look_every = max(LEAST_LOOKS, min(self.look_every, limit / 4))

    def send_away(self, double grace) -> None:
        """Sends all clients elsewhere, and ends the loop when they are gone.

        Args:
            grace: Seconds for their calls.
        """
        cdef double time = now()
        self.draining = True
        self.look_every = LEAST_LOOKS
        self.next_look = time
        for client in self.connections:
            self.dismiss(client, time, time + grace)

    @property
    def connections(self) -> list[Connection]:
        """The clients of the moment."""
        return [c for c in self.watched.values() if isinstance(c, Connection)]

    @property
    def lane_count(self) -> int:
        """Connections to Redis, idle and in use."""
        return len(self.idle) + len(self.busy) + sum(map(len, self.idle_at.values()))

    def lane_count_at(self, str node) -> int:
        """Those to one node of a cluster."""
        return len(self.idle_at.get(node, ())) + sum(
            [(<LoopLane>lane).node == node for lane in self.busy]
        )

    @property
    def reads_under_way(self) -> int:
        """Batches that are being read."""
        return len(self.busy)

    def add_lane(self, LoopLane lane not None) -> None:
        """Takes a connection to Redis for `exchange`, or to a node for `exchange_parts`."""
        self.watch(lane.descriptor, lane, EPOLLIN)
        self.idle_lanes(lane).append(lane)

    cdef list idle_lanes(self, LoopLane lane):
        """Where a connection is kept while it is idle."""
        if lane.node is None:
            return self.idle
        return self.idle_at.setdefault(lane.node, [])

    def remove_lanes(self) -> list[LoopLane]:
        """Gives the idle connections to Redis back."""
        cdef LoopLane lane
        lanes, self.idle = self.idle, []
        for others in self.idle_at.values():
            lanes += others
        self.idle_at = {}
        for lane in lanes:
            self.unwatch(lane.descriptor)
        return lanes

    def exchange(self, Batch batch not None, double timeout, object done) -> bool:
        """Reads a batch over an idle connection.

        Args:
            batch: What to read.
            timeout: Seconds for it.
            done: Is called as `done(reply, None)` when all is read, after which the reply is gone;
                or as `done(None, error)`, errors as of `hotfeast.hotpath.link.exchange`.

        Returns:
            Whether there was an idle connection; if not, nothing happens.

        Raises:
            MemoryError: There is no memory for the reply.
        """
        cdef LoopLane lane
        cdef Outcome outcome
        cdef int begun
        if not self.idle:
            return False
        lane = self.idle.pop()
        if self.cache is None:
            begun = lane.reply.begin(batch)
        else:
            begun = self.cache.begin(batch, lane.reply)
        if begun != 0:
            self.idle.append(lane)
            raise MemoryError
        lane.batch = batch
        lane.done = done
        self.busy.append(lane)
        if batch.out.size == 0:
            settle(batch, lane.reply)
            self.finish_lane(lane, DONE, 0)
            return True
        lane.timeout = timeout
        lane.deadline = now() + timeout
        begin_transfer(&lane.transfer, batch.out)
        outcome = send_more(lane.descriptor, batch.out, &lane.transfer)
        if outcome != PENDING:
            self.finish_lane(lane, outcome, errno)
        elif lane.transfer.sent < lane.transfer.limit:
            lane.sending = True
            self.rewatch(lane.descriptor, EPOLLIN | EPOLLOUT)
        return True

    def exchange_parts(self, Scatter scatter not None, double timeout, object done) -> list[str]:
        """Reads a batch that has begun from the nodes of a cluster, over idle connections.

        Args:
            scatter: What to read.
            timeout: Seconds for it.
            done: Is called as `done(reply, None)` when all is read, after which the reply is used
                up; or as `done(None, None)` where commands are left in `scatter` that somebody who
                can wait has to see to; or as `done(None, error)` where that is no use.

        Returns:
            Nodes without an idle connection; if there are any, nothing happens.
        """
        cdef list lanes = self.take_lanes(scatter)
        missing = [node for node in lanes if isinstance(node, str)]
        if missing:
            return missing
        scatter.done = done
        scatter.timeout = timeout
        scatter.deadline = now() + timeout
        self.begin_parts(scatter, lanes)
        return []

    def take_lanes(self, Scatter scatter not None) -> list:
        """For each part of a batch an idle connection; the nodes that have none, if there are any.
        """
        cdef Part part
        cdef LoopLane lane
        lanes = []
        missing = []
        for part in scatter.parts:
            idle = self.idle_at.get(part.node)
            if idle:
                lanes.append(idle.pop())
            else:
                missing.append(part.node)
        if not missing:
            return lanes
        for lane in lanes:
            self.idle_lanes(lane).append(lane)
        return missing

    cdef int begin_parts(self, Scatter scatter, list lanes) except -1:
        """Sends the parts of a batch."""
        cdef LoopLane lane
        cdef Part part
        cdef Outcome outcome
        parts = scatter.taken_up()
        scatter.waiting = <uint32_t>len(parts)
        if scatter.waiting == 0:
            # Nothing is asked for, or nobody serves it.
            self.gathered(scatter)
            return 0
        try:
            for part, lane in zip(parts, lanes):
                part.begin(lane.reply)
        except BaseException:
            # Nothing has been sent.
            for lane in lanes:
                self.idle_lanes(lane).append(lane)
            raise
        for part, lane in zip(parts, lanes):
            lane.batch = scatter.batch
            lane.scatter = scatter
            lane.part = part
            lane.timeout = scatter.timeout
            lane.deadline = scatter.deadline
            self.busy.append(lane)
        for lane in lanes:
            outcome = step_part(lane.descriptor, lane.part, lane.reply, False)
            if outcome != PENDING:
                self.finish_part(lane, outcome, errno)
            elif lane.part.transfer.sent < lane.part.transfer.limit:
                lane.sending = True
                self.rewatch(lane.descriptor, EPOLLIN | EPOLLOUT)
        return 0

    def gathered(self, Scatter scatter not None) -> None:
        """All parts of a batch are over: goes on with what is left of it, or tells that it is
        done."""
        done = scatter.done
        slots = self.slots
        try:
            if scatter.put_off:
                reply = None
            elif scatter.settle(slots):
                reply = scatter.reply
            else:
                lanes = self.take_lanes(scatter)
                if lanes and isinstance(lanes[0], LoopLane):
                    self.begin_parts(scatter, lanes)
                    return
                reply = None
        except Exception as error:
            scatter.done = None
            done(None, error)
            return
        scatter.done = None
        done(reply, None)

    def answer_in_pieces(self, Stream stream not None, Response response not None) -> bytes:
        """Answers a unary call with a response, pieces of which are sent as they are written, so
        that the client reads the first while the next are written.

        Returns:
            The response, all written, even where the client has gone.
        """
        # The client begins with the first piece, so that is a small one.
        cdef size_t size, least = self.piece_size // 8
        cdef bint done
        response.begin()
        size = response.layout.size
        stream.begin_message(response.data)
        while True:
            done = response.write_more(least)
            least = self.piece_size
            stream.wrote(size - response.ready())
            if done:
                break
            self.flush(stream.connection)
        assert response.ready() == size
        stream.finish(0, "", ())
        return response.data

    def touched(self, Connection connection not None) -> None:
        """A connection has something to send."""
        self.dirty.append(connection)

    def stop(self) -> None:
        """Ends the loop after this turn."""
        self.stopping = True

    def run(self) -> None:
        """Runs until `stop`. Connections are closed then."""
        cdef epoll_event events[MOST_EVENTS]
        cdef epoll_event later[MOST_EVENTS]
        cdef int count, calls, i, _, timeout
        cdef double time, woken = now()
        while not self.stopping:
            timeout = self.wait_ms()
            time = now()
            with nogil:
                count = epoll_wait(self.poller, events, MOST_EVENTS, timeout)
            if count < 0 and errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            # What is there at once may have come any time since it was last looked for, if all that
            # there was then could be told.
            self.looked, woken = woken, now()
            if woken - time > WAITED:
                self.looked = woken
            calls = 0
            # What is under way is ended before more is begun.
            for i in range(count):
                if isinstance(self.watched.get(events[i].data.fd), Connection):
                    later[calls] = events[i]
                    calls += 1
                else:
                    self.take_safely(events[i].data.fd, events[i].events)
            for i in range(calls):
                self.take_safely(later[i].data.fd, later[i].events)
            if count == MOST_EVENTS:
                woken = self.looked
            # Those that these calls ask for have their turn once others have had theirs.
            for _ in range(len(self.calls)):
                try:
                    self.calls.popleft()()
                except Exception as error:
                    self.survive(-1, error)
            if self.busy:
                self.check_deadlines()
            if self.client_count or self.draining:
                time = now()
                if time >= self.next_look:
                    self.look_after(time)
            while self.dirty:
                dirty, self.dirty = self.dirty, []
                for connection in dirty:
                    try:
                        self.flush(connection)
                    except Exception as error:
                        self.survive((<Connection>connection).descriptor, error)
            self.do_afterwards()
            if self.paused and now() >= self.accept_again:
                self.resume_accepting()
        for connection in self.connections:
            try:
                self.drop_connection(connection)
            except Exception as error:
                self.report(error)
        for lane in self.busy:
            self.unwatch((<LoopLane>lane).descriptor)
            self.lane_lost(lane)
        self.busy = []
        self.do_afterwards()

    cdef int do_afterwards(self) except -1:
        while self.afterwards:
            waiting, self.afterwards = self.afterwards, []
            for call in waiting:
                try:
                    call()
                except Exception as error:
                    self.report(error)

    cdef int wait_ms(self) except -2:
        """How long to wait for events, in milliseconds; -1 for as long as it takes."""
        cdef double left
        cdef int timeout = -1
        if self.calls:
            return 0
        if self.busy:
            timeout = DEADLINE_LOOKS
        elif self.paused:
            timeout = ACCEPT_PAUSE
        if self.client_count or self.draining:
            left = max(0.0, self.next_look - now())
            if timeout < 0 or left * 1000 < timeout:
                timeout = <int>(left * 1000) + 1
        return timeout

    def survive(self, int descriptor, object error) -> None:
        """An event or a call has failed, which should not happen: one client pays for it."""
        what = self.watched.get(descriptor)
        self.report(error)
        if isinstance(what, Connection):
            try:
                self.drop_connection(what)
            except Exception as another:
                self.report(another)

    def report(self, object error) -> None:
        """An error that should not have happened, for whoever keeps a log."""

    # ------------------------------------------------------------ events

    cdef int watch(self, int descriptor, object what, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = descriptor
        if epoll_ctl(self.poller, EPOLL_CTL_ADD, descriptor, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        self.watched[descriptor] = what
        return 0

    cdef int rewatch(self, int descriptor, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = descriptor
        if epoll_ctl(self.poller, EPOLL_CTL_MOD, descriptor, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def unwatch(self, int descriptor) -> None:
        """Forgets a descriptor, before it is closed."""
        cdef epoll_event event
        if self.watched.pop(descriptor, self) is not self:
            epoll_ctl(self.poller, EPOLL_CTL_DEL, descriptor, &event)

    cdef int take_safely(self, int descriptor, uint32_t events) except -1:
        try:
            self.take(descriptor, events)
        except Exception as error:
            self.survive(descriptor, error)
        return 0

    cdef int take(self, int descriptor, uint32_t events) except -1:
        cdef uint64_t count
        cdef Connection connection
        what = self.watched.get(descriptor, self)
        if what is self:
            # Closed earlier in this turn.
            return 0
        if isinstance(what, Connection):
            connection = what
            if events & EPOLLIN:
                self.read_connection(connection)
            elif events & (EPOLLERR | EPOLLHUP):
                return self.drop_connection(connection)
            if events & EPOLLOUT:
                self.flush(connection)
            return 0
        if isinstance(what, LoopLane):
            return self.step_lane(what, events)
        if what is None:
            eventfd_read(self.waker, &count)
            return 0
        return self.accept_all(descriptor)

    cdef int accept_all(self, int descriptor) except -1:
        cdef int client, on = 1
        cdef Connection connection
        cdef uint8_t address[ADDRESS_SIZE]
        cdef unsigned int size
        while True:
            size = ADDRESS_SIZE
            client = accept4(
                descriptor, <sockaddr*>address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC
            )
            if client < 0:
                if errno in (EINTR, ECONNABORTED):
                    continue
                if errno in (EMFILE, ENFILE):
                    # The client waits in the kernel's queue, where looking at it without pause
                    # would help nobody.
                    self.paused.append((descriptor, self.watched[descriptor]))
                    self.accept_again = now() + ACCEPT_PAUSE / 1000.0
                    self.rewatch(descriptor, 0)
                return 0
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
            # Clients whose machine has gone are found in the end.
            setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
            try:
                connection = Connection(self, client)
                connection.address = (<const uint8_t*>address)[
                    : min(size, <unsigned int>ADDRESS_SIZE)
                ]
                if self.tls_context is not None:
                    connection.tls = Tls(self.tls_context)
                self.watch(client, connection, EPOLLIN)
            except Exception:
                close(client)
                raise
            self.client_count += 1
            connection.opened = connection.heard = connection.quiet = now()
            connection.drained = connection.opened
            if self.age_limit:
                connection.leave_at = connection.opened + self.age_limit * random.uniform(0.9, 1.1)
            self.flush(connection)

    cdef int dismiss(self, Connection client, double time, double leave_by) except -1:
        """Sends a client elsewhere."""
        if not client.leaving:
            client.warned = time
            client.leave()
        if leave_by and (client.leave_by == 0 or leave_by < client.leave_by):
            client.leave_by = leave_by
        return 0

    cdef int look_after(self, double time) except -1:
        """Looks for clients that are silent, or have stayed, for too long."""
        self.next_look = time + self.look_every
        for what in list(self.watched.values()):
            if isinstance(what, Connection):
                try:
                    self.look_at(what, time)
                except Exception as error:
                    self.survive((<Connection>what).descriptor, error)
        if self.draining and self.client_count == 0:
            self.stopping = True
        return 0

    cdef int look_at(self, Connection client, double time) except -1:
        if client.spoke:
            client.spoke = False
            client.heard = time
        if (
            client.streams or client.last_number != client.seen_number or client.unsent
            or client.waits
        ):
            client.seen_number = client.last_number
            client.quiet = time
        if client.failed and client.leave_by == 0:
            client.leave_by = time + FAREWELL
        if client.leave_by and time >= client.leave_by:
            return self.drop_connection(client)
        if client.failed:
            return 0
        if client.streams:
            client.end_late(time)
        if not client.met and self.handshake_limit and (
            time - client.opened >= self.handshake_limit
        ):
            return self.drop_connection(client)
        if client.leaving:
            if not client.left:
                client.quiet = time
                if time - client.warned >= WARNING:
                    client.depart()
            elif time - client.quiet >= LINGER:
                return self.drop_connection(client)
            return 0
        if (self.idle_limit and time - client.quiet >= self.idle_limit) or (
            client.leave_at and time >= client.leave_at
        ):
            return self.dismiss(client, time, time + self.age_grace if self.age_grace else 0)
        if client.pinged:
            if client.heard > client.pinged:
                client.pinged = 0
            elif self.keepalive_limit and time - client.pinged >= self.keepalive_limit:
                return self.drop_connection(client)
        elif self.keepalive and time - client.heard >= self.keepalive:
            client.pinged = time
            client.ping()
        return 0

    cdef int resume_accepting(self) except -1:
        """Looks for clients again, for whom there were no descriptors."""
        paused, self.paused = self.paused, []
        for descriptor, listener in paused:
            if self.watched.get(descriptor) is listener:
                self.rewatch(descriptor, EPOLLIN)
        return 0

    cdef int read_connection(self, Connection connection) except -1:
        cdef ssize_t count
        cdef size_t room
        if connection.congested:
            return 0
        if connection.tls is not None:
            return self.read_encrypted(connection)
        connection.make_input(READ_SIZE)
        room = connection.input_capacity - connection.input_size
        count = recv(
            connection.descriptor, connection.input + connection.input_size, room, MSG_DONTWAIT,
        )
        if count > 0:
            self.note_arrival(connection, <size_t>count < room)
            connection.input_size += <size_t>count
            connection.spoke = True
            connection.parse()
            return 0
        if count < 0 and errno in (EAGAIN, EINTR):
            return 0
        return self.drop_connection(connection)

    cdef void note_arrival(self, Connection connection, bint drained) noexcept:
        """Notes when what has just been read had come, and whether there is no more of it."""
        self.arrived_at = connection.arrived = max(connection.drained, self.looked)
        if drained:
            connection.drained = now()

    cdef int read_encrypted(self, Connection connection) except -1:
        """The same, of a client behind TLS: all that has come is read, so that what is to be read
        shows at the socket."""
        cdef Tls tls = connection.tls
        cdef ssize_t count
        cdef Py_ssize_t size
        if self.arrived == NULL:
            self.arrived = <uint8_t*>malloc(READ_SIZE)
            if self.arrived == NULL:
                raise MemoryError
        count = recv(connection.descriptor, self.arrived, READ_SIZE, MSG_DONTWAIT)
        if count <= 0:
            return 0 if count < 0 and errno in (EAGAIN, EINTR) else (
                self.drop_connection(connection)
            )
        self.note_arrival(connection, count < READ_SIZE)
        connection.spoke = True
        if not tls.begun and self.arrived[0] != TLS_HANDSHAKE:
            return self.refuse_plain(connection, <size_t>count)
        try:
            tls.take(self.arrived, <size_t>count)
            if not tls.ready and not self.open_encrypted(connection):
                return 0
            while True:
                connection.make_input(READ_SIZE)
                size = tls.read(
                    connection.input + connection.input_size,
                    connection.input_capacity - connection.input_size,
                )
                if size > 0:
                    connection.input_size += <size_t>size
                if size <= 0 or not tls.has_more():
                    break
        except SSLError as error:
            self.insecure(connection, error)
            # OpenSSL has said why. Nothing else can be encrypted any more.
            connection.out_at = connection.out_size
            self.flush_encrypted(connection)
            return self.drop_connection(connection)
        connection.parse()
        return self.drop_connection(connection) if size < 0 else 0

    cdef int refuse_plain(self, Connection connection, size_t count) except -1:
        """Takes the first bytes of a client that does not speak TLS. One that speaks HTTP/2 is told
        by the status of its calls: a connection that only closes, or says GOAWAY, it would try
        again and again."""
        connection.tls = None
        connection.refusal = "this port speaks TLS: connect with TLS credentials"
        connection.leave_by = now() + REFUSING
        connection.make_input(count)
        memcpy(connection.input + connection.input_size, self.arrived, count)
        connection.input_size += count
        connection.touch()
        return connection.parse()

    cdef int open_encrypted(self, Connection connection) except -1:
        """Goes on with a handshake; 0 while it is not over."""
        cdef Tls tls = connection.tls
        tls.shake()
        connection.touch()
        if not tls.ready:
            return 0
        if tls.protocol != "h2":
            connection.fail(INADEQUATE_SECURITY, "the client does not offer h2 (ALPN)")
        else:
            self.secured(connection, tls)
        return 1

    cdef int flush(self, Connection connection) except -1:
        """Sends what fits the socket's buffer."""
        cdef ssize_t count
        connection.dirty = False
        # The number may be another client's by now.
        if self.watched.get(connection.descriptor) is not connection:
            return 0
        if connection.tls is not None:
            return self.flush_encrypted(connection)
        while connection.out_at < connection.out_size:
            count = send(
                connection.descriptor, connection.out + connection.out_at,
                connection.out_size - connection.out_at, MSG_DONTWAIT | MSG_NOSIGNAL,
            )
            if count < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    break
                return self.drop_connection(connection)
            connection.out_at += <size_t>count
        return self.flushed(connection, connection.out_at < connection.out_size)

    cdef int flush_encrypted(self, Connection connection) except -1:
        """The same, of a client behind TLS: of what is to be sent a part is encrypted, sent, and
        then the next."""
        cdef Tls tls = connection.tls
        cdef ssize_t count
        cdef size_t size
        cdef bint waits = False
        try:
            while not waits:
                while tls.sealed is not None and tls.sent < <size_t>PyBytes_GET_SIZE(tls.sealed):
                    count = send(
                        connection.descriptor, PyBytes_AS_STRING(tls.sealed) + tls.sent,
                        PyBytes_GET_SIZE(tls.sealed) - tls.sent, MSG_DONTWAIT | MSG_NOSIGNAL,
                    )
                    if count >= 0:
                        tls.sent += <size_t>count
                    elif errno == EAGAIN:
                        waits = True
                        break
                    elif errno != EINTR:
                        return self.drop_connection(connection)
                if waits:
                    break
                if tls.ready and connection.out_at < connection.out_size:
                    size = min(connection.out_size - connection.out_at, <size_t>SEAL_SIZE)
                    tls.seal(connection.out + connection.out_at, size)
                    connection.out_at += size
                    if connection.failed and connection.out_at == connection.out_size:
                        tls.say_goodbye()
                if not tls.next_sealed():
                    break
        except SSLError as error:
            self.insecure(connection, error)
            return self.drop_connection(connection)
        return self.flushed(connection, waits)

    cdef int flushed(self, Connection connection, bint waits) except -1:
        """Notes whether what is to be sent waits for the socket."""
        # With TLS it may also wait for the client's part of the handshake.
        if not waits and connection.out_at == connection.out_size:
            connection.shrink()
            if connection.failed:
                return self.drop_connection(connection)
        if waits or connection.waits:
            connection.waits = waits
            self.rewatch_connection(connection)
        return 0

    def rewatch_connection(self, Connection connection not None) -> None:
        """Waits for what a connection can use: room to send, and more to read."""
        cdef uint32_t events = 0 if connection.congested else EPOLLIN
        if connection.waits:
            events |= EPOLLOUT
        self.rewatch(connection.descriptor, events)

    cdef int drop_connection(self, Connection connection) except -1:
        if self.watched.get(connection.descriptor) is connection:
            self.unwatch(connection.descriptor)
            close(connection.descriptor)
            self.client_count -= 1
            connection.lost()
            self.connection_lost(connection)
        return 0

    def connection_lost(self, Connection connection not None) -> None:
        """A client is gone."""

    def secured(self, Connection connection not None, Tls tls not None) -> None:
        """A client's handshake is over; what it has called for comes after this."""

    def insecure(self, Connection connection not None, object error not None) -> None:
        """A client is dropped since it does not keep to TLS."""

    # ------------------------------------------------------------ Redis

    cdef int step_lane(self, LoopLane lane, uint32_t events) except -1:
        cdef Outcome outcome = PENDING
        cdef bint sending
        if lane.batch is None:
            # Redis says nothing unasked: it has closed the connection.
            self.idle_lanes(lane).remove(lane)
            self.unwatch(lane.descriptor)
            self.lane_lost(lane)
            return 0
        if lane.part is not None:
            outcome = step_part(
                lane.descriptor, lane.part, lane.reply, (events & ~EPOLLOUT) != 0
            )
            if outcome != PENDING:
                return self.finish_part(lane, outcome, errno)
            sending = lane.part.transfer.sent < lane.part.transfer.limit
        else:
            if events & ~EPOLLOUT:
                outcome = receive_more(lane.descriptor, lane.batch, lane.reply, &lane.transfer)
            if outcome == PENDING:
                outcome = send_more(lane.descriptor, lane.batch.out, &lane.transfer)
            if outcome != PENDING:
                return self.finish_lane(lane, outcome, errno)
            sending = lane.transfer.sent < lane.transfer.limit
        if sending != lane.sending:
            lane.sending = sending
            self.rewatch(lane.descriptor, EPOLLIN | EPOLLOUT if sending else EPOLLIN)
        return 0

    cdef int finish_lane(self, LoopLane lane, Outcome outcome, int error) except -1:
        cdef Batch batch = lane.batch
        done, lane.done = lane.done, None
        lane.batch = None
        self.busy.remove(lane)
        if outcome != DONE:
            self.unwatch(lane.descriptor)
            failure = failure_of(outcome, error, lane.timeout)
            try:
                self.lane_lost(lane)
            finally:
                done(None, failure)
            return 0
        if lane.sending:
            lane.sending = False
            self.rewatch(lane.descriptor, EPOLLIN)
        if self.cache is not None:
            self.cache.keep(batch, lane.reply)
        # The reply is read before anything else can use the connection.
        try:
            done(lane.reply, None)
        finally:
            self.idle.append(lane)
        if self.wants_lane:
            self.lane_free()
        return 0

    cdef int finish_part(self, LoopLane lane, Outcome outcome, int error) except -1:
        cdef Scatter scatter = lane.scatter
        cdef Part part = lane.part
        lane.batch = None
        lane.scatter = None
        lane.part = None
        self.busy.remove(lane)
        scatter.waiting -= 1
        failure = None
        if outcome != DONE:
            failure = failure_of(outcome, error, lane.timeout)
        else:
            try:
                scatter.take(part, lane.reply)
            except MemoryError as raised:
                failure = raised
        if failure is None:
            if lane.sending:
                lane.sending = False
                self.rewatch(lane.descriptor, EPOLLIN)
            self.idle_lanes(lane).append(lane)
        else:
            self.unwatch(lane.descriptor)
            scatter.fail(part, str(failure) or type(failure).__name__)
            self.lane_lost(lane)
        if scatter.waiting == 0:
            self.gathered(scatter)
        return 0

    cdef int check_deadlines(self) except -1:
        cdef LoopLane lane
        cdef double time = now()
        for lane in list(self.busy):
            if lane.deadline <= time and lane.batch is not None:
                try:
                    if lane.part is not None:
                        self.finish_part(lane, TIMED_OUT, 0)
                    else:
                        self.finish_lane(lane, TIMED_OUT, 0)
                except Exception as error:
                    self.survive(-1, error)
        return 0
