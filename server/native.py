"""The gateway's own gRPC server: one loop for clients and Redis, and grpcio behind it for the rest.

Reads of features are answered in the loop (`hotfeast.hotpath.reactor`), as many as can be in time;
others are refused (`hotfeast.hotpath.admission`). One that finds no idle connection to Redis waits
for the next. Other unary methods run in the threads for requests, as do reads that may take long:
while there is no connection, that have a Python transform to run, whose connection broke, that are
large or compressed. Streams have a thread each (`hotfeast.server.stream_calls`). Health is told
from here, and never refused. Reflection, and whatever else somebody asks for, is passed on to a
grpcio server on a local socket.
"""

import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.errors import ReplyError
from hotfeast.hotpath.http2 import Connection, Stream, Unreadable
from hotfeast.hotpath.reactor import LoopLane, Reactor
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.scatter import Scatter
from hotfeast.hotpath.slots import SlotMap
from hotfeast.hotpath.splice import Response
from hotfeast.hotpath.tls import Tls
from hotfeast.server.call_context import Aborted, CallContext
from hotfeast.server.channelz import Counts
from hotfeast.server.cluster_io import ClusterReader, Servers
from hotfeast.server.errors import (
    RedisUnavailable,
    RequestFailure,
    StartFailure,
    failure_of,
    late,
)
from hotfeast.server.listening import bind_all, close_all, listen_all, port_of
from hotfeast.server.overload import Overload
from hotfeast.server.peers import peer_of
from hotfeast.server.redis_io import Lanes
from hotfeast.server.request_threads import RequestThreads
from hotfeast.server.security.identity import identity_of_der
from hotfeast.server.security.opening import Security
from hotfeast.server.security.policy import Action
from hotfeast.server.security.refusals import Reason, Refusals
from hotfeast.server.servicer import (
    FEAST_FEATURE_SERVER,
    FEATURE_SERVING,
    PUSH,
    FeatureServicer,
    Wanted,
)
from hotfeast.server.settings import ConnectionLimits
from hotfeast.server.stream_calls import Handled, Metadata, PassedOn
from hotfeast.server.telemetry.calls import CallWatch

logger = logging.getLogger(__name__)

# Connections to Redis that the loop reads with at most.
_MOST_LANES = 64
_FIRST_LANES = 2
# Streams, and calls that are passed on to grpcio, at once; each takes a thread.
_MOST_STREAMS = 256
# Calls at once on a connection where there is no limit.
_ANY_STREAMS = 2**31 - 1
CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
# What is worked on in a thread, since others would wait for it for a millisecond: bytes of a
# request, and cells of an answer. Most of what is done for a cell is done as it arrives, so that
# others have their turn in between.
_LARGE_REQUEST = 65536
_MANY_CELLS = 100000
# Methods that are refused where too much waits for a thread, besides reads.
_REFUSED = {
    f"/{PUSH}/Push".encode(),
    f"/{FEAST_FEATURE_SERVER}/Push".encode(),
    f"/{FEAST_FEATURE_SERVER}/WriteToOnlineStore".encode(),
}
_PUSH_STREAM = f"/{PUSH}/PushStream".encode()
_READ_STREAMS = {f"/{FEATURE_SERVING}/GetOnlineFeaturesStream".encode()}
# Bytes of a compressed question about health, which has a name in it.
_LARGEST_QUESTION = 1024
# Connections to Redis that are opened at once: each takes a thread that requests may need.
_MOST_OPENING = 4
# Seconds after which a read may be tried again that was refused behind its headers, which few are.
_RETRY = 0.1


class Begun(NamedTuple):
    """A read that waits for an idle connection to Redis.

    Attributes:
        stream: The call.
        message: The request.
        wanted: What is to be read for it.
        began: When it arrived.
    """

    stream: Stream
    message: bytes
    wanted: Wanted
    began: float


class Count(Protocol):
    """Counts a call that is over."""

    def __call__(self, method: str, code: grpc.StatusCode, seconds: float) -> None: ...


def stream_methods(served: dict[str, dict[str, Any]]) -> dict[bytes, Any]:
    """The handlers of methods with many messages, which take and give bytes, by path."""
    return {
        f"/{service}/{method}".encode(): handler.stream_stream
        for service, methods in served.items()
        for method, handler in methods.items()
        if handler.stream_stream is not None
    }


def unary_methods(
    served: dict[str, dict[str, Any]],
) -> tuple[dict[bytes, Any], frozenset[bytes]]:
    """The unary methods of services by path, and the paths of those that read features."""
    handlers = {
        f"/{service}/{method}".encode(): handler
        for service, methods in served.items()
        for method, handler in methods.items()
        if handler.unary_unary is not None
    }
    # Health is answered beside them, by whoever knows it.
    handlers[CHECK] = None
    return handlers, frozenset(path for path in handlers if path.endswith(b"/GetOnlineFeatures"))


class NativeServer(Reactor):
    """Listens, and answers."""

    def __init__(
        self,
        at_once: dict[bytes, Any],
        reads: frozenset[bytes],
        streams: dict[bytes, Any],
        servicer: FeatureServicer,
        lanes: Servers,
        redis_timeout: float,
        threads: RequestThreads,
        behind: str,
        overload: Overload,
        count: Count | None = None,
        cache: RowCache | None = None,
        ended: Callable[[], None] = lambda: None,
        statuses: health.HealthServicer | None = None,
        limits: ConnectionLimits | None = None,
        calls: CallWatch | None = None,
        security: Security | None = None,
        cluster: ClusterReader | None = None,
    ) -> None:
        """
        Args:
            at_once: The unary methods that are answered here, by path.
            reads: Those of them that read features.
            streams: Handlers of methods with many messages, by path.
            servicer: Answers reads.
            lanes: Where connections to Redis are had.
            redis_timeout: Seconds for a round trip.
            threads: Where handlers run that may wait.
            behind: Address of the grpcio server that everything else is passed on to.
            overload: Refuses what is too much.
            count: Is told of each call that is over.
            cache: Rows that need not be asked for.
            ended: Is called where the loop ends by itself, which it should not.
            statuses: Knows the health of services.
            limits: Of connections.
            calls: Looks at some calls; nobody if None.
            security: Encrypts, and knows who calls; neither is done if None.
            cluster: Reads what the loop leaves of batches, where there is a cluster.
        """
        self._calls = calls
        self._refusals = security.refusals if security is not None else Refusals()
        self._access = security.access if security is not None else None
        self._needs = dict.fromkeys(reads | _READ_STREAMS, Action.read) | dict.fromkeys(
            _REFUSED | {_PUSH_STREAM}, Action.push
        )
        self.authenticates = self._access is not None
        if security is not None and security.certificates is not None:
            security.certificates.use_with(self._encrypt_with)
        self.gone = Counts()
        self._limit(limits or ConnectionLimits())
        self._statuses = statuses or health.HealthServicer()
        self._watches: set[HealthWatch] = set()
        self._handlers = at_once
        self._reads = reads
        self._stream_handlers = streams
        self._servicer = servicer
        self._lanes = lanes
        self._breaker = lanes.breaker
        self._timeout = redis_timeout
        self._threads = threads
        self._count = count
        self._overload = overload
        self._admission = self.admission = overload.admission(reads)
        self.most_streams = overload.limits.streams or _ANY_STREAMS
        self._waiting: deque[Begun] = deque()
        self.cache = cache
        self.keeps_callers = servicer.keeps_callers or (calls is not None and calls.keeps_callers)
        self._ended = ended
        self._listeners: list[socket.socket] = []
        self._shared = False
        self._opening = 0
        self._cluster = cluster
        self._server: Any = None
        self._open_streams = 0
        self._running = threading.Thread(target=self._run, name="native-server", daemon=True)
        self._drained = threading.Event()
        self._behind = grpc.insecure_channel(
            behind,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # Another process has one of its own.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._stream_threads = ThreadPoolExecutor(_MOST_STREAMS, thread_name_prefix="stream")

    def bind(self, host: str, port: int) -> int:
        """Takes an address; nothing is accepted before `start`.

        Args:
            host: An address or a name; brackets around an IPv6 address may be there or not.
            port: 0 for any free one.

        Returns:
            The port.

        Raises:
            StartFailure: It cannot be had.
        """
        self._listeners = bind_all(host, port, share_port=False)
        try:
            listen_all(self._listeners, host)
        except StartFailure:
            close_all(self._listeners)
            raise
        return port_of(self._listeners)

    def adopt(self, listeners: Sequence[socket.socket]) -> int:
        """Takes sockets that are bound, and that others may listen on, too.

        Returns:
            Their port.
        """
        self._listeners = list(listeners)
        self._shared = True
        return port_of(listeners)

    def limit(self, limits: ConnectionLimits) -> None:
        """Has connections be limited otherwise; from any thread."""
        self.call(partial(self._limit, limits))

    def _limit(self, limits: ConnectionLimits) -> None:
        self.set_limits(
            limits.handshake, limits.idle, limits.age, limits.age_grace, limits.keepalive,
            limits.keepalive_answer,
        )  # fmt: skip

    def start(self) -> None:
        """Accepts clients."""
        if self._shared:
            listen_all(self._listeners, self._listeners[0].getsockname()[0])
        for listener in self._listeners:
            self.listen(listener)
        self._running.start()

    def stop_serving(self, grace: float) -> threading.Event:
        """Takes no more calls, and ends when those in flight are over.

        Args:
            grace: Seconds that they have.

        Returns:
            What is set when it has ended.
        """
        if not self._running.is_alive():
            close_all(self._listeners)
            self._drained.set()
            return self._drained
        self.call(partial(self._drain, grace))
        return self._drained

    def _run(self) -> None:
        try:
            if self._cluster is not None:
                self._cluster.cluster.follow(self._use_slots)
            else:
                for _ in range(_FIRST_LANES):
                    self._want_lane()
            self.run()
        except BaseException:
            logger.critical("the loop of the gateway's server has ended", exc_info=True)
            self._ended()
            raise
        finally:
            self._drop_lanes()
            self._behind.close()
            self._stream_threads.shutdown(wait=False)
            self._drained.set()

    def report(self, error: Exception) -> None:
        """An error that should not have happened."""
        logger.error("the gateway's server has failed at an event", exc_info=error)

    def _encrypt_with(self, context: ssl.SSLContext) -> None:
        """Encrypts the connections of clients that come from now on; from any thread."""
        self.tls_context = context

    def secured(self, connection: Connection, tls: Tls) -> None:
        """Notes who a client's certificate says that it is."""
        certificate = tls.certificate
        if certificate is not None:
            connection.identity = identity_of_der(certificate)

    def insecure(self, connection: Connection, error: Exception) -> None:
        """Tells of a client that does not keep to TLS."""
        why = getattr(error, "reason", None) or type(error).__name__
        self._refusals.note(Reason.tls, "", peer_of(connection.address), why)

    def _drain(self, grace: float) -> None:
        for listener in self._listeners:
            # Who waits at a socket that others have, too, is theirs.
            self.stop_listening(listener, not self._shared)
        self._listeners = []
        self.send_away(grace)
        for watch in list(self._watches):
            watch.end()

    # ------------------------------------------------------------ who calls

    def meet(self, stream: Stream) -> None:
        """Refuses a unary call without credentials as it begins, unless it needs none."""
        assert self._access is not None
        if stream.path in self.at_once and stream.path != CHECK:
            try:
                self._access.grants(stream)
            except RequestFailure as failure:
                self._turn_away(stream, failure)

    def judge(self, stream: Stream) -> None:
        """Lets a message that is longer than its first frame come, or refuses the call: here where
        it is known who calls, else in a thread."""
        assert self._access is not None
        if stream.path in (CHECK, WATCH):
            self._turn_away(
                stream,
                RequestFailure(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "a question about health is longer than a frame",
                ),
            )
        elif self._access.knows(stream):
            self._judged(stream, self._judgement(stream))
        else:
            self._take_thread(stream, self.arrived_at, partial(self._judge_in_thread, stream))

    def _judge_in_thread(self, stream: Stream) -> None:
        self.call(partial(self._judged, stream, self._judgement(stream)))

    def _judgement(self, stream: Stream) -> RequestFailure | None:
        """Why a caller may not call a method at all, whatever it asks for."""
        assert self._access is not None
        try:
            self._access.check_method(stream, self._needs.get(stream.path))
        except RequestFailure as failure:
            return failure
        return None

    def _judged(self, stream: Stream, failure: RequestFailure | None) -> None:
        # What has come as a whole in the meantime is judged like all else.
        if stream.closed or stream.complete:
            return
        if failure is None:
            stream.let_in()
        else:
            self._turn_away(stream, failure)

    def _turn_away(self, stream: Stream, failure: RequestFailure) -> None:
        """Refuses a call whose message has not come."""
        self._look_at(stream)
        stream.refuse(failure.code.value[0], failure.message)
        self._over(stream, failure.code, self.arrived_at)

    # ------------------------------------------------------------ reads

    def answer(self, stream: Stream, message: bytes) -> None:
        """Answers a unary call, here or in a thread."""
        began = self.arrived_at
        if stream.path == CHECK:
            self._check(stream, message)
            return
        self._look_at(stream)
        if stream.path not in self._reads:
            work = partial(self._handle, stream, message, began)
            self._take_thread(stream, began, work, may_refuse=stream.path in _REFUSED)
            return
        if len(message) > _LARGE_REQUEST or (
            self._access is not None and not self._access.knows(stream)
        ):
            self._read_in_thread(stream, message, began)
            return
        if self._admission.full:
            self._admission.take_refusal()
            failure = self._overload.too_many_reads(_RETRY)
            self._fail(stream, failure, began)
            return
        left = self._time_left(stream)
        try:
            if left is not None and left <= 0:
                self._overload.count("deadline")
                raise late()
            wanted = self._servicer.begin(message, stream)
        except Exception as error:
            self._fail(stream, error, began)
            return
        if wanted.batch.cell_count > _MANY_CELLS:
            work = partial(self._in_thread, stream, began, partial(self._servicer.read, wanted))
            self._take_thread(stream, began, work)
            return
        self._admission.begin(wanted.batch, began)
        begun = Begun(stream, message, wanted, began)
        if self._waiting:
            # They were here before.
            self._waiting.append(begun)
        elif not self._read(begun, left):
            self._want_lane()
            self._wait(begun)

    def _read(self, begun: Begun, left: float | None) -> bool:
        """Reads over an idle connection; returns whether there is one."""
        timeout = self._timeout if left is None else min(left, self._timeout)
        try:
            self._breaker.check()
        except RedisUnavailable as error:
            self._finish(begun, None, error)
            return True
        try:
            if self._cluster is not None:
                self._gather(self._cluster, begun, left)
                return True
            return self.exchange(begun.wanted.batch, timeout, partial(self._finish, begun))
        except Exception as error:
            self._admission.end(begun.wanted.batch, begun.began, False)
            self._fail(begun.stream, error, begun.began)
            return True

    def _gather(self, cluster: ClusterReader, begun: Begun, left: float | None) -> None:
        """Reads from the nodes of a cluster, in a thread where a connection is missing."""
        batch = begun.wanted.batch
        scatter = cluster.begin(batch)
        done = partial(self._gathered, cluster, begun, scatter)
        missing = self.exchange_parts(scatter, cluster.time_for(batch, left), done)
        if missing:
            for node in missing:
                self._want_lane(node)
            self._go_on(cluster, begun, scatter)

    def _gathered(
        self,
        cluster: ClusterReader,
        begun: Begun,
        scatter: Scatter,
        reply: Reply | None,
        error: Exception | None,
    ) -> None:
        """What was wanted is there, or what is left of it has to wait for something."""
        incomplete = reply is None or reply.unknown is not None
        if error is None and incomplete and not begun.stream.closed:
            self._go_on(cluster, begun, scatter)
        else:
            self._finish(begun, reply, error)
            cluster.release(scatter)

    def _go_on(self, cluster: ClusterReader, begun: Begun, scatter: Scatter) -> None:
        """Reads what is left, in a thread."""
        stream, _, wanted, began = begun
        self._admission.end(wanted.batch, began, False)
        read = partial(self._servicer.read, wanted, go_on=partial(cluster.resume, scatter))
        self._take_thread(stream, began, partial(self._in_thread, stream, began, read))

    def _wait(self, begun: Begun) -> None:
        """Has a read wait for the next idle connection, or a thread where there will be none."""
        if self.lane_count:
            self._waiting.append(begun)
            self.wants_lane = True
        else:
            self._admission.end(begun.wanted.batch, begun.began, False)
            self._read_in_thread(begun.stream, begun.message, begun.began)

    def lane_free(self) -> None:
        """A connection to Redis can be used again, by the read that has waited longest."""
        # Not to be called again by what is done here.
        self.wants_lane = False
        while self._waiting:
            begun = self._waiting.popleft()
            left = self._time_left(begun.stream)
            failure = None
            if begun.stream.closed:
                failure = self._given_up()
            elif left is not None and left <= 0:
                self._overload.count("deadline")
                failure = late()
            if failure is not None:
                self._admission.end(begun.wanted.batch, begun.began, False)
                self._fail(begun.stream, failure, begun.began)
            elif not self._read(begun, left):
                self._waiting.appendleft(begun)
                break
        self.wants_lane = bool(self._waiting)

    def _take_thread(
        self, stream: Stream, began: float, work: Callable[[], None], may_refuse: bool = True
    ) -> None:
        """Has something done by a thread, unless it would wait too long for one."""
        if may_refuse:
            try:
                self._overload.check_threads()
            except RequestFailure as failure:
                self._fail(stream, failure, began)
                return
        self._threads.submit(work)

    def answer_packed(self, stream: Stream, message: bytes) -> None:
        """Answers a unary call whose message is compressed, in a thread."""
        began = self.arrived_at
        self._look_at(stream)
        work = partial(self._unpack, stream, message, began)
        may_refuse = stream.path in self._reads or stream.path in _REFUSED
        self._take_thread(stream, began, work, may_refuse)

    def _unpack(self, stream: Stream, message: bytes, began: float) -> None:
        try:
            plain = stream.unpack(message)
        except Unreadable as error:
            self.call(partial(stream.finish, error.code, str(error), ()))
            return
        if stream.path == CHECK:
            self.call(partial(self._check, stream, plain))
        elif stream.path in self._reads:
            self._in_thread(stream, began, partial(self._servicer.answer, plain, caller=stream))
        else:
            self._handle(stream, plain, began)

    def _finish(self, begun: Begun, reply: Reply | None, error: Exception | None) -> None:
        """What was wanted is there, or not."""
        stream, message, wanted, began = begun
        answered = False
        try:
            if isinstance(error, TimeoutError):
                waited = time.monotonic() - began
                self._breaker.failed(error, waited)
                if waited >= self._timeout:
                    # The server hangs, and the others would, too, one request after the other; a
                    # new connection leads to the one that Sentinel puts in its place.
                    self._drop_lanes()
                error = RedisUnavailable(str(error))
            if stream.closed:
                # Nobody waits for the answer.
                raise self._given_up()
            if reply is None:
                assert error is not None
                if isinstance(error, OSError):
                    # An idle connection had died. Reading once more is safe.
                    self._read_in_thread(stream, message, began)
                    return
                raise error
            try:
                reply.raise_error()
            except ReplyError as refused:
                if isinstance(self._lanes, Lanes):
                    self._lanes.note_reply(refused)
                raise
            self._breaker.succeeded()
            if reply.unknown is not None:
                self._read_in_thread(stream, message, began)
                return
            answered = True
            left = self._time_left(stream)
            if left is not None and left <= 0:
                self._overload.count("deadline")
                raise late()
            answer = self._servicer.finish_in_pieces(wanted, reply)
            if isinstance(answer, bytes):
                stream.answer(answer)
                self._answered(stream, began, wanted, answer)
            elif isinstance(answer, Response):
                self._answered(stream, began, wanted, self.answer_in_pieces(stream, answer))
            else:
                work = partial(self._servicer.transform, answer)
                self._take_thread(stream, began, partial(self._in_thread, stream, began, work))
        except (RedisUnavailable, ReplyError) as failure:
            unread = self._servicer.leave_out(wanted, failure, self._time_left(stream))
            if unread is None:
                self._fail(stream, failure, began)
            else:
                stream.answer(unread)
                self._answered(stream, began, wanted, unread)
        except Exception as failure:
            self._fail(stream, failure, began)
        finally:
            self._admission.end(wanted.batch, began, answered)

    def _read_in_thread(self, stream: Stream, message: bytes, began: float) -> None:
        work = partial(self._servicer.answer, message, caller=stream)
        self._take_thread(stream, began, partial(self._in_thread, stream, began, work))

    def _in_thread(
        self, stream: Stream, began: float, work: Callable[[float | None], bytes]
    ) -> None:
        try:
            self._check_caller(stream)
            answer = work(self._time_left(stream))
        except Exception as error:
            self.call(partial(self._fail, stream, error, began))
        else:
            self.call(partial(self._succeed, stream, answer, began))

    def _check_caller(self, stream: Stream) -> None:
        """Raises RequestFailure where nobody waits for the answer any more."""
        if stream.closed:
            raise self._given_up()
        left = self._time_left(stream)
        if left is not None and left <= 0:
            self._overload.count("deadline")
            raise late()

    def _given_up(self) -> RequestFailure:
        self._overload.count("cancelled")
        return RequestFailure(grpc.StatusCode.CANCELLED, "the client has given up")

    def _time_left(self, stream: Stream) -> float | None:
        deadline = stream.deadline_seconds
        return None if deadline is None else deadline - time.monotonic()

    def _answered(self, stream: Stream, began: float, wanted: Wanted, answer: bytes) -> None:
        """A read has its answer; once it is sent, others may look at it."""
        self.afterwards.append(partial(self._servicer.show, wanted, answer))
        self._over(stream, grpc.StatusCode.OK, began)

    def _succeed(self, stream: Stream, answer: bytes, began: float) -> None:
        stream.answer(answer)
        self._over(stream, grpc.StatusCode.OK, began)

    def _fail(self, stream: Stream, error: Exception, began: float) -> None:
        failure = failure_of(error, self._time_left(stream))
        if failure is None:
            logger.error("a call of %s failed", stream.path.decode(), exc_info=error)
            failure = RequestFailure(
                grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}"
            )
        stream.finish(failure.code.value[0], failure.message, failure.trailers)
        self._over(stream, failure.code, began)

    def _look_at(self, stream: Stream) -> None:
        if self._calls is not None:
            stream.record = self._calls.begin(stream)

    def _over(self, stream: Stream, code: grpc.StatusCode, began: float) -> None:
        if self._count is not None or self._calls is not None or stream.note is not None:
            seconds = time.monotonic() - began
            self.afterwards.append(partial(self._tell, stream, code, seconds))

    def _tell(self, stream: Stream, code: grpc.StatusCode, seconds: float) -> None:
        if self._count is not None:
            self._count(stream.path[1:].decode(), code, seconds)
        if stream.note is not None:
            stream.note.over(stream, code, seconds)
        if stream.figures is not None:
            stream.figures.over(code, seconds)
        if self._calls is not None:
            self._calls.over(stream, stream.path[1:].decode(), code, seconds)

    # ------------------------------------------------------------ other unary methods

    def _handle(self, stream: Stream, message: bytes, began: float) -> None:
        """Runs a handler of grpcio's kind, in a thread."""
        try:
            self._check_caller(stream)
        except RequestFailure as failure:
            self.call(partial(self._fail, stream, failure, began))
            return
        handler: Any = self._handlers[stream.path]
        context = CallContext(stream.deadline_seconds, stream)
        try:
            if handler.request_deserializer is not None:
                try:
                    message = handler.request_deserializer(message)
                except DecodeError:
                    # As grpcio says it.
                    context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
            answer = handler.unary_unary(message, context)
            if handler.response_serializer is not None:
                answer = handler.response_serializer(answer)
        except Aborted:
            code = context.code()
            assert code is not None
            self.call(partial(self._fail, stream, RequestFailure(code, context.message), began))
        except Exception as error:
            self.call(partial(self._fail, stream, error, began))
        else:
            self.call(partial(self._succeed, stream, answer, began))

    # ------------------------------------------------------------ health

    def _check(self, stream: Stream, message: bytes) -> None:
        request = _question(stream, message)
        if request is None:
            return
        context = CallContext(None)
        answer = self._statuses.Check(request, context)
        code = context.code() or grpc.StatusCode.OK
        stream.send_message(answer.SerializeToString())
        stream.finish(code.value[0], "", ())

    def connection_lost(self, connection: Connection) -> None:
        """A client is gone."""
        self.gone = self.gone.plus(connection)

    # ------------------------------------------------------------ connections to Redis

    def lane_lost(self, lane: LoopLane) -> None:
        """A connection to Redis is gone."""
        lane.lane.close()
        if not self.lane_count:
            # Nor is there another that somebody could wait for.
            waiting, self._waiting = self._waiting, deque()
            self.wants_lane = False
            for begun in waiting:
                self._wait(begun)

    def _drop_lanes(self) -> None:
        for lane in self.remove_lanes():
            lane.lane.close()

    def _want_lane(self, node: str | None = None) -> None:
        """Has one more connection made, unless there are enough."""
        count = self.lane_count if node is None else self.lane_count_at(node)
        if self._opening < _MOST_OPENING and count + self._opening < _MOST_LANES:
            self._opening += 1
            self._threads.submit(self._open_lane, node)

    def _use_slots(self, slots: SlotMap) -> None:
        """Reads by these slots from now on."""
        self.slots = slots
        self.call(self._meet_nodes)

    def _meet_nodes(self) -> None:
        assert self.slots is not None
        for node in self.slots.nodes:
            if self.lane_count_at(node) == 0:
                self._want_lane(node)

    def _open_lane(self, node: str | None) -> None:
        try:
            if self._cluster is not None and node is not None:
                lanes = self._cluster.cluster.lanes(node)
                lane = self._cluster.cluster.take(node)
            else:
                assert isinstance(self._lanes, Lanes)
                lanes = self._lanes
                lane = lanes.take()
        except RedisUnavailable:
            # Whoever needs it is told so by a read of its own.
            self.call(partial(self._opened, None))
            return
        if lane.tls is not None:
            # Encrypted connections are read by threads.
            lanes.release(lane)
            self.call(partial(self._opened, None))
            return
        self.call(partial(self._opened, LoopLane(lane, lane.descriptor, lane.reply, node)))

    def _opened(self, lane: LoopLane | None) -> None:
        self._opening -= 1
        if lane is None:
            return
        if lane.node is None and lane.lane.server != self._server:
            # Sentinel names another master than before.
            self._server = lane.lane.server
            self._drop_lanes()
        self.add_lane(lane)
        if self.wants_lane:
            self.lane_free()

    # ------------------------------------------------------------ all else

    def open(self, stream: Stream, headers: Metadata) -> "Handled | PassedOn | HealthWatch | None":
        """Has a call with many messages answered, or whatever else is not answered at once."""
        if stream.path == WATCH:
            return HealthWatch(stream, self._statuses, self.call, self._watches)
        if self._open_streams == _MOST_STREAMS:
            stream.finish(
                grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
                f"{_MOST_STREAMS} streams and calls of other services are open already",
                (),
            )
            return None
        self._open_streams += 1
        handler = self._stream_handlers.get(stream.path)
        if handler is not None:
            return Handled(self.call, stream, handler, self._stream_threads, self._stream_over)
        return PassedOn(
            self.call, stream, headers, self._behind, self._stream_threads, self._stream_over
        )

    def _stream_over(self) -> None:
        self._open_streams -= 1


def _question(stream: Stream, message: bytes) -> Any:
    """A question about health; None where it is none, which the client has then been told."""
    try:
        return health_pb2.HealthCheckRequest.FromString(message)
    except DecodeError:
        # As grpcio says it.
        code = grpc.StatusCode.INTERNAL
        stream.refuse(code.value[0], "Exception deserializing request!")
        return None


class HealthWatch:
    """A call that is told the health of a service until it ends; runs in the loop."""

    def __init__(
        self,
        stream: Stream,
        statuses: health.HealthServicer,
        call: Callable[[Callable[[], object]], None],
        all_watches: "set[HealthWatch]",
    ) -> None:
        """
        Args:
            stream: The call.
            statuses: Knows the health of services, and tells of it in any thread.
            call: Has a function called by the loop.
            all_watches: Those that are open.
        """
        self._stream = stream
        self._statuses = statuses
        self._call = call
        self._all = all_watches
        self._forget: Callable[[], None] | None = None

    def message(self, data: bytes, taken: int) -> None:
        """The client has said what it wants to know of."""
        self._stream.took(taken)
        if self._forget is not None:
            self._refuse("a call of Watch has one message; this has more")
            return
        request = _question(self._stream, data)
        if request is not None:
            self._all.add(self)
            self._statuses.Watch(request, self, self._tell)

    def packed_message(self, data: bytes, taken: int) -> None:
        """The same, compressed."""
        if len(data) > _LARGEST_QUESTION:
            self._refuse(f"a compressed question is larger than {_LARGEST_QUESTION} bytes")
            return
        try:
            self.message(self._stream.unpack(data), taken)
        except Unreadable as error:
            self._stream.refuse(error.code, str(error))

    def half_close(self) -> None:
        """The client has sent its last message."""
        if self._forget is None and not self._stream.closed:
            self._refuse("a call of Watch has one message, and this one has none")

    def cancel(self) -> None:
        """The client has given up."""
        self._all.discard(self)
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()

    def end(self) -> None:
        """Ends the call since the gateway does."""
        self.cancel()
        self._stream.finish(grpc.StatusCode.UNAVAILABLE.value[0], "shutting down", ())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Is told by `statuses` what to call when nothing more is to be told."""
        self._forget = callback
        return True

    def _refuse(self, why: str) -> None:
        self._stream.refuse(grpc.StatusCode.INTERNAL.value[0], why)

    def _tell(self, answer: Any) -> None:
        if answer is not None:
            self._call(partial(self._stream.send_message, answer.SerializeToString()))
