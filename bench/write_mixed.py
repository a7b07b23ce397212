"""Reads at a fixed rate beside a stream of pushes whose rows are watched."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.data import SEED
from bench.load import open_load
from bench.measure import machine
from bench.processes import open_gateway
from bench.verdict import Verdict
from bench.write_data import (
    CALL_LIMIT,
    FEATURES,
    KEY,
    PUSH,
    PUSH_METHOD,
    START,
    VIEW,
    Report,
    make_repository,
)
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2, serving_pb2, value_pb2

READS_PER_SECOND = 2000
WORKERS = 2
"""Of the gateway: one is busy with the reads alone."""
CONNECTIONS = 8
"""That the reads are spread over."""
PUSHED_PER_SECOND = 5000
READ_P99_MS = 10.0
"""At most this beside pushes."""
_READ_METHOD = (
    f"/{serving_pb2.DESCRIPTOR.services_by_name['FeatureServing'].full_name}/GetOnlineFeatures"
)
MIXED_SECONDS = 20.0
MIXED_ENTITIES = 1000
"""All of them are in each push."""
_CHECKS_PER_SECOND = 50
_BATCH = 100


def measure_mixed(report: Report, say: Callable[[str], None]) -> None:
    """Reads at a fixed rate beside a stream of pushes whose rows are watched.

    Every push of an entity has a greater number in all of its features than the one before. A
    reader that asks for an entity must find one number in all of them, at least the last one whose
    push had been acknowledged before, and never a smaller one than it has found already.
    """
    with ExitStack() as stack:
        server = stack.enter_context(LocalRedis())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-bench-")))
        report.facts = report.facts or machine(server.client())
        make_repository(folder, server.address, 1000)
        port = stack.enter_context(open_gateway(folder, workers=WORKERS))
        references = [f"{VIEW}:{name}" for name in FEATURES]
        acknowledged: Any = multiprocessing.get_context("spawn").Array("q", MIXED_ENTITIES)
        requests = [_read_request(references, [i * 7 % MIXED_ENTITIES]) for i in range(200)]
        load = stack.enter_context(
            open_load(port, _READ_METHOD, requests, READS_PER_SECOND, CONNECTIONS)
        )
        writer = stack.enter_context(_process(_push_stream, port, MIXED_SECONDS + 1, acknowledged))
        checker = stack.enter_context(
            _process(_watch, port, references, MIXED_SECONDS + 1, acknowledged)
        )
        for pipe in (writer, checker):
            pipe.recv()
        say(
            f"mixed: {READS_PER_SECOND:,} reads and {PUSHED_PER_SECOND:,} pushed rows a second "
            f"for {MIXED_SECONDS:.0f} s"
        )
        start = load.begin(MIXED_SECONDS)
        for pipe in (writer, checker):
            pipe.send(start)
        measured = load.finish()
        pushed = writer.recv()
        checks, complaint = checker.recv()
        if complaint:
            raise RuntimeError(complaint)
        _check_final(port, references, list(acknowledged))
    late = measured.latency[measured.due > 2.0]
    p50, p99, most = np.percentile(late, [50, 99, 100])
    rate = pushed["rows"] / pushed["seconds"]
    report.figures["mixed"] = {
        "reads_per_second": READS_PER_SECOND,
        "read_ms": {"p50": round(float(p50), 3), "p99": round(float(p99), 3),
                    "max": round(float(most), 3)},
        "pushed_rows_per_second": round(rate),
        "push_ms": pushed["ms"],
        "checked_reads": checks,
    }  # fmt: skip
    report.verdicts += [
        Verdict(
            f"p99 of {READS_PER_SECOND:,} reads/s beside pushes", float(p99), READ_P99_MS, True,
            "ms", f"p50 {p50:.2f} ms; push p50 {pushed['ms']['p50']} ms",
        ),
        Verdict(
            "rows pushed a second beside them", rate, PUSHED_PER_SECOND * 0.99, False, "rows/s",
            f"{checks:,} reads checked: none lost, none out of order",
        ),
    ]  # fmt: skip


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _numbered(entities: Sequence[int], number: int, micros: int) -> bytes:
    """A push in which all features of the entities are one number."""
    request = push_pb2.PushRequest(push_source=PUSH, target=push_pb2.PushTarget.PUSH_TARGET_ONLINE)
    columns = request.columns.columns
    columns[KEY].val.extend(value_pb2.Value(int64_val=e) for e in entities)
    for i, name in enumerate(FEATURES):
        value = value_pb2.Value(double_val=number) if i % 2 else value_pb2.Value(int64_val=number)
        columns[name].val.extend([value] * len(entities))
    for _ in entities:
        request.columns.event_timestamps.add().FromMicroseconds(micros)
    return bytes(request.SerializeToString())


def _push_stream(port: int, length: float, acknowledged: Any, pipe: Any) -> None:
    """A process that pushes on one stream at the rate, and notes what has been acknowledged."""
    batches = [range(first, first + _BATCH) for first in range(0, MIXED_ENTITIES, _BATCH)]
    base = int(START.timestamp()) * 1_000_000
    period = _BATCH / PUSHED_PER_SECOND
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    pipe.send("ready")
    start = pipe.recv()
    sent: list[float] = []

    def requests() -> Iterator[bytes]:
        turn = 0
        while turn * period < length:
            wait = start + turn * period - time.time()
            if wait > 0:
                time.sleep(wait)
            number, which = divmod(turn, len(batches))
            sent.append(time.perf_counter())
            yield _numbered(batches[which], number + 1, base + number + 1)
            turn += 1

    taken, rows = [], 0
    call: Any = channel.stream_stream(f"{PUSH_METHOD}Stream")
    for turn, answer in enumerate(call(requests())):
        taken.append((time.perf_counter() - sent[turn]) * 1e3)
        response = push_pb2.PushResponse.FromString(answer)
        number, which = divmod(turn, len(batches))
        outcomes = list(response.outcomes)
        if outcomes != [push_pb2.RowOutcome.ROW_OUTCOME_WRITTEN] * _BATCH:
            raise RuntimeError(f"push {turn} was not written: {set(outcomes)} {response.error}")
        for entity in batches[which]:
            acknowledged[entity] = number + 1
        rows += _BATCH
    p50, p99 = np.percentile(taken, [50, 99])
    pipe.send(
        {
            "rows": rows,
            "seconds": length,
            "ms": {"p50": round(float(p50), 3), "p99": round(float(p99), 3)},
        }
    )


def _read_request(references: Sequence[str], entities: Sequence[int]) -> bytes:
    request = serving_pb2.GetOnlineFeaturesRequest()
    request.features.val.extend(references)
    request.entities[KEY].val.extend(value_pb2.Value(int64_val=e) for e in entities)
    return bytes(request.SerializeToString())


def _numbers(answer: bytes) -> list[int]:
    """The number that all features of each row have.

    Raises:
        RuntimeError: A row is a mix.
    """
    response = serving_pb2.GetOnlineFeaturesResponse.FromString(answer)
    columns = [
        [int(v.int64_val or v.double_val) for v in vector.values] for vector in response.results[1:]
    ]
    for row in zip(*columns, strict=True):
        if len(set(row)) != 1:
            raise RuntimeError(f"a row is a mix of several pushes: {row}")
    return columns[0]


def _watch(
    port: int, references: Sequence[str], length: float, acknowledged: Any, pipe: Any
) -> None:
    """A process that reads entities and compares with what has been acknowledged before."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call: Any = channel.unary_unary(_READ_METHOD)
    chooser = np.random.default_rng(SEED)
    seen: dict[int, int] = {}
    pipe.send("ready")
    start = pipe.recv()
    checks, complaint = 0, ""
    while time.time() < start + length and not complaint:
        time.sleep(1 / _CHECKS_PER_SECOND)
        entities = [int(e) for e in chooser.integers(0, MIXED_ENTITIES, 10)]
        before = [acknowledged[e] for e in entities]
        try:
            found = _numbers(call(_read_request(references, entities), timeout=CALL_LIMIT))
        except RuntimeError as error:
            complaint = str(error)
            break
        for entity, least, number in zip(entities, before, found, strict=True):
            checks += 1
            if number < max(least, seen.get(entity, 0)):
                complaint = (
                    f"entity {entity}: read {number} after {least} was acknowledged and "
                    f"{seen.get(entity, 0)} had been read"
                )
            seen[entity] = number
    pipe.send((checks, complaint))


def _check_final(port: int, references: Sequence[str], acknowledged: Sequence[int]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(_READ_METHOD)
        found = _numbers(call(_read_request(references, range(MIXED_ENTITIES)), timeout=30))
    if found != list(acknowledged):
        raise RuntimeError("the store does not hold what was acknowledged last")
