"""Bytes in, bytes out: the order of the stages, and what becomes of their errors.

The hot method is registered without (de)serializers, so that grpcio hands over the bytes as they
came; everything else uses protobuf's classes.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.errors import InvalidRequest, ProtocolError, ReplyError
from hotfeast.hotpath.judge import judge_early
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import Response, begin_response, build_computed, build_response
from hotfeast.server.catalog import Catalog
from hotfeast.server.clock import Clock
from hotfeast.server.errors import (
    RedisUnavailable,
    RequestFailure,
    failure_of,
    invalid,
    late,
)
from hotfeast.server.feast_api import (
    GRPC_SERVER_FILE,
    SERVING_SERVICE_FILE,
    FeastPushRequest,
    GetFeastServingInfoRequest,
    GetFeastServingInfoResponse,
    WriteToOnlineStoreRequest,
)
from hotfeast.server.feast_push import FeastPushService
from hotfeast.server.overload import Overload
from hotfeast.server.plan import PlanBook, PlanSource, ServingPlan
from hotfeast.server.push import PushService
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.security.access import Access
from hotfeast.server.security.credentials import ContextCredentials
from hotfeast.server.security.grants import Grants
from hotfeast.server.security.guard import Guard
from hotfeast.server.security.policy import Action
from hotfeast.server.telemetry.calls import CallWatch
from hotfeast.server.telemetry.records import ENCODE, PARSE, REDIS, TRANSFORM, Record
from hotfeast.server.telemetry.service_figures import PlanFigures, ServiceFigures
from hotfeast.server.traffic.notes import Caller, DeprecationNote, Note, Reads
from hotfeast.server.traffic.routes import Side
from hotfeast.server.traffic.service import TrafficService
from hotfeast.server.transform_runs import TransformRuns
from hotfeast.server.transforms import apply_on_demand
from hotfeast.server.unread import unread_answer
from hotfeast.serving.v1 import push_pb2, serving_pb2, traffic_pb2

logger = logging.getLogger(__name__)

FEATURE_SERVING = serving_pb2.DESCRIPTOR.services_by_name["FeatureServing"].full_name
PUSH = push_pb2.DESCRIPTOR.services_by_name["Push"].full_name
TRAFFIC = traffic_pb2.DESCRIPTOR.services_by_name["Traffic"].full_name
FEAST_SERVING_SERVICE = SERVING_SERVICE_FILE.services_by_name["ServingService"].full_name
FEAST_FEATURE_SERVER = GRPC_SERVER_FILE.services_by_name["GrpcFeatureServer"].full_name

SERVICE_NAMES = (FEATURE_SERVING, PUSH, TRAFFIC, FEAST_SERVING_SERVICE, FEAST_FEATURE_SERVER)
"""Every service that is served, by its full name."""

# The method that grpcio's server tells of, under whichever name it was called.
_READ = f"{FEATURE_SERVING}/GetOnlineFeatures"
# Cells from which an answer is sent in pieces: a third of a millisecond of work.
_PIECES_FROM = 10000


class ContextCaller(ContextCredentials):
    """The caller of a call that grpcio answers.

    Attributes:
        note: What is said of the call; None for most.
        record: What is kept of it for traces and logs; None for most.
        figures: What counts it beside others of its plan; None where nothing does.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        super().__init__(context)
        self.note: Note | None = None
        self.record: Record | None = None
        self.figures: PlanFigures | None = None

    @property
    def caller(self) -> bytes | None:
        """`x-caller`, else `user-agent`; None where there is neither."""
        return self.header("x-caller") or self.header("user-agent")

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id`; None where there is none."""
        return self.header("x-request-id")

    @property
    def traceparent(self) -> bytes | None:
        """`traceparent`; None where there is none."""
        return self.header("traceparent")


class Reader(Protocol):
    """Reads rows: `RedisReader`, or `ClusterReader`."""

    def batch(self, plan: Plan, request: Request) -> Batch:
        """A batch to read."""

    def read(self, batch: Batch, time_left: float | None) -> Any:
        """Reads a batch; what it returns has the complete `reply`, and must be given back."""

    def release(self, read: Any, /) -> None:
        """Gives back what `read` has returned."""


class Tap(Protocol):
    """Takes samples of what is answered."""

    def choose(self, plan: ServingPlan, request: Request, caller: Caller | None) -> Any:
        """What it wants to know of a request's answer; None for most."""

    def take(self, sample: Any, answer: bytes) -> None:
        """Takes the answer to a request that was chosen."""


class Aliases(Protocol):
    """Names that stand for several feature services."""

    def side(self, book: PlanBook, request: Request) -> Side | None:
        """Where a request for a feature service goes; None where it names no alias."""


class FeatureServicer:
    """Answers `GetOnlineFeatures`."""

    def __init__(
        self,
        plans: PlanSource,
        reader: Reader,
        modes: ReadModes,
        clock: Clock,
        strict: bool = True,
        transform_turn: Callable[[float | None], AbstractContextManager[None]] = lambda _: (
            nullcontext()
        ),
        transform_runs: TransformRuns | None = None,
        tap: Tap | None = None,
        aliases: Aliases | None = None,
        deprecated: Reads | None = None,
        refuse_sunset: bool = False,
        calls: CallWatch | None = None,
        figures: ServiceFigures | None = None,
        overload: Overload | None = None,
        access: Access | None = None,
    ) -> None:
        """
        Args:
            plans: The plans of the moment.
            reader: Where rows are read from.
            modes: Decides which command they are read with.
            clock: The time that rows are aged against.
            strict: Whether statuses tell the truth; else they are those of Feast's Python server.
            transform_turn: What is entered, with the seconds that are left, to run transforms.
            transform_runs: Counts how on-demand views are computed, and samples what is verified.
            tap: Takes samples of what is answered; nobody if None.
            aliases: Names that stand for several feature services; none if None.
            deprecated: Counts reads of what is deprecated; nobody if None.
            refuse_sunset: Whether requests are refused that read something past its sunset.
            calls: Looks at some calls that grpcio's server answers; nobody if None.
            figures: Counts reads by feature service; nobody if None.
            overload: Refuses requests for too much; nobody if None.
            access: Who may read what; everybody everything if None.
        """
        self._access = access
        self._calls = calls
        self._figures = figures
        self._plans = plans
        self._reader = reader
        self._modes = modes
        self._clock = clock
        self._strict = strict
        self._transform_turn = transform_turn
        self._runs = transform_runs or TransformRuns()
        self._tap = tap
        self._refuse_sunset = refuse_sunset
        self._overload = overload
        self._aliases = aliases
        self._deprecated = deprecated

    @property
    def keeps_callers(self) -> bool:
        """Whether it matters who calls."""
        return self._tap is not None or self._aliases is not None or self._deprecated is not None

    def get_online_features(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Serves one request, both serialized."""
        began = time.perf_counter()
        call = ContextCaller(context)
        self.look_at(call)
        code = grpc.StatusCode.UNKNOWN
        trailing: tuple[tuple[bytes, bytes], ...] = ()
        try:
            answer = self.answer(data, context.time_remaining(), call)
            code = grpc.StatusCode.OK
            return answer
        except Exception as error:
            failure = failure_of(error, context.time_remaining())
            if failure is None:
                raise
            code = failure.code
            trailing = failure.metadata + failure.details
            context.abort(failure.code, failure.message)
        finally:
            if call.note is not None:
                trailing += _note_metadata(call.note, code)
            if trailing:
                # As grpcio wants it.
                context.set_trailing_metadata(
                    tuple((name.decode(), value) for name, value in trailing)
                )
            self.over(call, _READ, code, time.perf_counter() - began)
        raise AssertionError("abort() returned")

    def look_at(self, call: Caller) -> None:
        """A read begins, of which something may be kept."""
        if self._calls is not None:
            call.record = self._calls.begin(call)

    def over(self, call: Caller, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Tells whoever wants to know that a read is over.

        Args:
            call: Its caller.
            method: Service and method, with a slash between.
            code: How it ended.
            seconds: How long it took.
        """
        if call.note is not None:
            call.note.over(call, code, seconds)
        if call.figures is not None:
            call.figures.over(code, seconds)
        if self._calls is not None:
            self._calls.over(call, method, code, seconds)

    def answer(
        self, data: bytes, time_left: float | None = None, caller: Caller | None = None
    ) -> bytes:
        """Serves one request without gRPC.

        Args:
            data: A serialized `GetOnlineFeaturesRequest`.
            time_left: Seconds until the caller's deadline; None where it has none.
            caller: Who asks, for samples; None where that cannot be told.

        Raises:
            RequestFailure, InvalidRequest, CorruptRow, RedisUnavailable, ReplyError, ProtocolError:
                See `hotfeast.server.errors`.
        """
        return self.read(self.begin(data, caller), time_left)

    def read(
        self,
        wanted: "Wanted",
        time_left: float | None,
        go_on: Callable[[float | None], Any] | None = None,
    ) -> bytes:
        """Serves a request that has begun; as `answer`.

        Args:
            wanted: The request.
            time_left: Seconds until the caller's deadline; None where it has none.
            go_on: Goes on with a read that has begun, too; as `Reader.read`.
        """
        go_on = go_on or partial(self._reader.read, wanted.batch)
        try:
            read = go_on(time_left)
        except (RedisUnavailable, ProtocolError, ReplyError) as error:
            unread = self.leave_out(wanted, error, time_left)
            if unread is None:
                raise
            self.show(wanted, unread)
            return unread
        try:
            answer = self.finish(wanted, read.reply)
        finally:
            self._reader.release(read)
        if not isinstance(answer, bytes):
            return self.transform(answer, time_left)
        self.show(wanted, answer)
        return answer

    def leave_out(
        self, wanted: "Wanted", error: Exception, time_left: float | None
    ) -> bytes | None:
        """The partial answer without what Redis was asked for; None where the request is to fail.

        Args:
            wanted: What was to be read.
            error: Why it was not.
            time_left: Seconds until the caller's deadline; None where it has none.
        """
        failure = failure_of(error, time_left)
        if not wanted.batch.request.partial or failure is None:
            return None
        if failure.code is not grpc.StatusCode.UNAVAILABLE:
            return None
        return unread_answer(wanted.plan, wanted.batch, failure.message)

    def begin(self, data: bytes, caller: Caller | None = None) -> "Wanted":
        """The first step of an answer: what is to be read for it. Waits for nothing.

        Args:
            data: A serialized `GetOnlineFeaturesRequest`.
            caller: As for `answer`; is told what is to be said of the call.

        Raises:
            RequestFailure, InvalidRequest: See `hotfeast.server.errors`.
        """
        access = self._access
        grants = None if access is None else access.grants(caller)
        request = Request(data)
        if not request.canonical:
            request = Request(_canonical(data))
        book = self._plans.book
        side = None
        if self._aliases is not None and request.by_service:
            side = self._aliases.side(book, request)
        if access is not None and grants is not None:
            self._check(access, grants, caller, book, request, side)
        if side is None:
            plan = book.find(request)
            if plan.deprecations is not None and caller is not None:
                caller.note = DeprecationNote(plan.deprecations, self._deprecated)
        else:
            if caller is not None:
                # Also of a call that is refused below.
                caller.note = side
            plan = side.plan
        if plan.deprecations is not None and self._refuse_sunset:
            plan.deprecations.refuse(time.time())
        figures = None
        if self._figures is not None:
            figures = self._figures.of(plan)
            if caller is not None:
                # Also of a call that is refused below.
                caller.figures = figures
        wanted = self._begin(book, plan, request, caller, side)
        record = None if caller is None else caller.record
        if record is not None:
            record.is_for(plan, wanted.batch.rows)
            record.mark(PARSE)
        return wanted._replace(record=record, figures=figures)

    def _check(
        self,
        access: Access,
        grants: Grants,
        caller: Caller | None,
        book: PlanBook,
        request: Request,
        side: Side | None,
    ) -> None:
        """Lets a request pass, or not.

        Raises:
            RequestFailure: It may not be answered, or cannot be; which of them is told as far as
                the caller may know.
        """
        try:
            plan = book.find(request) if side is None else side.plan
        except RequestFailure as failure:
            raise access.instead_of(
                grants, caller, failure, book.definitions, request, side is not None
            ) from None
        if side is None:
            access.check_read(grants, caller, book, plan.compiled, plan, None)
        else:
            access.check_read(grants, caller, book, side, plan, side.alias)

    def answer_by(self, book: PlanBook, plan: ServingPlan, request: Request) -> bytes:
        """Answers a request by a plan that need not be its own.

        Args:
            book: The plans of the moment.
            plan: One of them.
            request: What is asked; its feature service or list is not looked at.

        Raises:
            Exception: As for `answer`.
        """
        return self.read(self._begin(book, plan, request, None, None), None)

    def _begin(
        self,
        book: PlanBook,
        plan: ServingPlan,
        request: Request,
        caller: Caller | None,
        side: Side | None,
    ) -> "Wanted":
        if plan.request_fields:
            request.take_as_context(plan.request_names)
        if request.has_context and not plan.on_demand:
            names = ", ".join(map(repr, request.context_columns))
            raise invalid(f"request_context has {names}, but this request needs no request data")
        if self._overload is not None:
            self._overload.check(request)
        batch = self._reader.batch(plan.compiled, request)
        if self._overload is not None:
            self._overload.check_batch(batch)
        if side is not None:
            batch.said = side.said
        if plan.compiled.probe_due:
            self._modes.sample(batch)
        now = self._clock.now()
        if plan.compiled.tiled:
            batch.now_us = now[0] * 1_000_000 + now[1] // 1000
        if self._strict:
            judge_early(batch, *now)
        verify = plan.computation is not None and self._runs.is_sampled()
        sample = None if self._tap is None else self._tap.choose(plan, request, caller)
        return Wanted(book, plan, batch, now, verify, sample, side)

    def finish_in_pieces(
        self, wanted: "Wanted", reply: Reply
    ) -> "bytes | Response | Untransformed":
        """As `finish`, for a caller that can send an answer while it is written: a large one that
        no sample is taken of is returned unwritten. The reply is used up when it is written.
        """
        if (
            wanted.batch.cell_count < _PIECES_FROM
            or wanted.plan.on_demand
            or wanted.sample is not None
            or wanted.record is not None
        ):
            return self.finish(wanted, reply)
        return begin_response(wanted.batch, reply, *wanted.now, self._strict)

    def finish(self, wanted: "Wanted", reply: Reply) -> "bytes | Untransformed":
        """The second step: the answer, unless transforms have yet to run. Waits for nothing, and
        `show` is to be told of the answer.

        Args:
            wanted: What `begin` said.
            reply: The complete reply to its batch, which is used up.

        Raises:
            CorruptRow: See `hotfeast.server.errors`.
        """
        plan = wanted.plan
        if wanted.record is not None:
            wanted.record.mark(REDIS)
        seconds, nanos = wanted.now
        computed: bytes | None = None
        by_kernel: list[bytes | None] | None = None
        stored: bytes | None
        if plan.computation is None:
            stored = build_response(wanted.batch, reply, seconds, nanos, self._strict)
        else:
            computed, stored, by_kernel = build_computed(
                wanted.batch, reply, seconds, nanos, self._strict, plan.computation, wanted.verify
            )
        if wanted.record is not None:
            wanted.record.mark(ENCODE)
        if computed is not None and not wanted.verify:
            self._runs.count(plan, by_kernel)
            answer = computed
        else:
            assert stored is not None
            if plan.on_demand:
                return Untransformed(wanted, stored, computed, by_kernel)
            answer = stored
        return answer

    def transform(self, answer: "Untransformed", time_left: float | None) -> bytes:
        """The last step, for answers that transforms have yet to run for. May take long.

        Raises:
            RequestFailure: See `hotfeast.server.errors`.
        """
        if time_left is not None and time_left <= 0:
            raise late()
        wanted, stored, computed, by_kernel = answer
        used = None if wanted.verify else by_kernel
        self._runs.count(wanted.plan, used)
        with self._transform_turn(time_left):
            response = apply_on_demand(
                wanted.plan, wanted.book.definitions, wanted.batch.request, stored, self._strict,
                used,
            )  # fmt: skip
        if wanted.record is not None:
            wanted.record.mark(TRANSFORM)
        if wanted.verify and by_kernel is not None:
            self._runs.compare(wanted.plan, by_kernel, computed, response)
        self.show(wanted, response)
        return response

    def show(self, wanted: "Wanted", answer: bytes) -> None:
        """Lets an answer be looked at by whoever wants to."""
        if wanted.sample is not None and self._tap is not None:
            self._tap.take(wanted.sample, answer)
        if wanted.figures is not None:
            wanted.figures.answered(wanted.batch.rows, answer, len(wanted.plan.output_names))
        if wanted.side is not None:
            wanted.side.answered(wanted.batch.request, wanted.batch.rows, answer)


class Wanted(NamedTuple):
    """What is to be read for a request.

    Attributes:
        book: The plans of the moment.
        plan: The request's.
        batch: What is read.
        now: The time that rows are aged against: seconds and nanoseconds since 1970 in UTC.
        verify: Whether transforms run both ways.
        sample: What the tap wants to know of the answer; None for most.
        side: The target of an alias that it goes to; None where no alias was asked for.
        record: What is kept of the call for traces and logs; None for most.
        figures: Counts it beside others of its plan; None where nothing does.
    """

    book: PlanBook
    plan: ServingPlan
    batch: Batch
    now: tuple[int, int]
    verify: bool
    sample: Any = None
    side: Side | None = None
    record: Record | None = None
    figures: PlanFigures | None = None


class Untransformed(NamedTuple):
    """An answer that transforms have yet to run for.

    Attributes:
        wanted: What was to be read.
        stored: The response with all that was read.
        computed: The response by kernels; None where they do not compute all views.
        by_kernel: What kernels computed, as `build_computed` has it.
    """

    wanted: Wanted
    stored: bytes
    computed: bytes | None
    by_kernel: list[bytes | None] | None


def _note_metadata(note: Note, code: grpc.StatusCode) -> tuple[tuple[bytes, bytes], ...]:
    return note.metadata if code is grpc.StatusCode.OK else note.failure_metadata


def _canonical(data: bytes) -> bytes:
    """Rewrites a request in the one encoding that the hot path reads."""
    try:
        message = serving_pb2.GetOnlineFeaturesRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the request is not a GetOnlineFeaturesRequest: {error}") from error
    message.DiscardUnknownFields()
    return message.SerializeToString()


Method = Callable[[Any, Any], Any]


def methods(
    servicer: FeatureServicer,
    pushes: PushService,
    feast_pushes: FeastPushService,
    catalog: Catalog,
    traffic: TrafficService,
    streamed: Method,
    version: str,
    gate: Callable[[Method], Method],
    admit: Callable[[Method], Method],
    guard: Guard,
) -> dict[str, dict[str, Any]]:
    """The method handlers of all services that are served, Feast's two names among them.

    Args:
        servicer: Answers for features.
        pushes: Takes pushes.
        feast_pushes: Takes those of Feast's clients.
        catalog: Answers for definitions.
        traffic: Lists and changes aliases.
        streamed: Answers for features on streams.
        version: Hotfeast's.
        gate: Wraps each method that answers.
        admit: Wraps those of them that may be refused where there is too much to do.
        guard: Knows who calls.

    Returns:
        By the service's full name and the method's name.
    """
    online: Any = grpc.unary_unary_rpc_method_handler(gate(admit(servicer.get_online_features)))

    def parsed(method: Method, request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            gate(method),
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def listing(method: Callable[[Any, Grants | None], Any], request: Any) -> Any:
        return parsed(guard.seen(method), request)

    return {
        FEATURE_SERVING: {
            "GetOnlineFeatures": online,
            "GetOnlineFeaturesStream": grpc.stream_stream_rpc_method_handler(gate(streamed)),
            "GetServingInfo": listing(catalog.serving_info, serving_pb2.GetServingInfoRequest),
            "ListFeatureServices": listing(
                catalog.feature_services, serving_pb2.ListFeatureServicesRequest
            ),
            "ListFeatureViews": listing(catalog.feature_views, serving_pb2.ListFeatureViewsRequest),
        },
        PUSH: {
            "Push": grpc.unary_unary_rpc_method_handler(gate(admit(pushes.push))),
            "PushStream": grpc.stream_stream_rpc_method_handler(gate(pushes.push_stream)),
        },
        TRAFFIC: {
            name: parsed(guard.only(Action.traffic, method), request)
            for name, (method, request) in traffic.methods.items()
        },
        FEAST_SERVING_SERVICE: {
            "GetOnlineFeatures": online,
            "GetFeastServingInfo": listing(
                lambda _, __: GetFeastServingInfoResponse(version=version),
                GetFeastServingInfoRequest,
            ),
        },
        FEAST_FEATURE_SERVER: {
            "GetOnlineFeatures": online,
            "Push": parsed(admit(feast_pushes.push), FeastPushRequest),
            "WriteToOnlineStore": parsed(
                admit(feast_pushes.write_to_online_store), WriteToOnlineStoreRequest
            ),
        },
    }
