"""Would one field for all views of a feature service be read faster than one field a view?

A field that holds the rows of all views of a service is true only while each view's `_ts:` says so,
so it is read together with those: 6 fields of an entity where the packed layout reads 10. It would
be stored once for each service that has the view, and every write of a view would have to find and
rewrite all of them. The field alone, without the times, is what it could come to at most.

Raw reads of 100 entities by 50 features, in turns, and the gateway's whole answer from the packed
layout beside them, since what counts is what a request would gain.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from bench.data import FIVE_VIEWS, SERVICE_VIEWS, Layout, Rows, service_views, view_name
from bench.measure import Contender, Samples, interleave
from bench.peers import Case, Peer, named, open_peers
from bench.raw import RawRead, RawSocket, pack_command
from bench.stores import Encoding, Store, open_store
from hotfeast.server.plan import row_hash_field

_ROWS = 100
_RING = 50
_ROUNDS = 40
_CALLS = 20
_VIEWS = 5
_SERVICE_FIELD = b"service:" + FIVE_VIEWS.encode()

VIEW_ROWS = "a field a view, times"
SERVICE_ROW = "a field a service, times"
SERVICE_ROW_ALONE = "a field a service, no times"
"""Not true beside other writers: what is read at the least."""


@dataclass(frozen=True)
class Compared:
    """One way of reading.

    Attributes:
        store: How Redis holds the hashes.
        name: What is read.
        raw_ms: p50 of the raw read.
        request_ms: p50 of the gateway's answer with this read in place of its own.
        gain: How many times as fast such a request is.
    """

    store: str
    name: str
    raw_ms: float
    request_ms: float
    gain: float


def run(entities: int, say: Callable[[str], None] = print) -> list[Compared]:
    """Measures both encodings of packed rows.

    Args:
        entities: How many there are in Redis.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    results = []
    for encoding in Encoding:
        say(f"packed rows, {encoding}: loading, reading")
        with open_store(rows, encoding, Layout.PACKED) as store:
            results += _compare(store)
    return results


def table(results: list[Compared]) -> Table:
    """The results as a table."""
    shown = Table(title=f"{_ROWS} rows x 50 features in packed rows, p50")
    for heading in ("hashes", "read", "raw read, ms", "request, ms", "gain"):
        shown.add_column(heading, justify="left" if heading in ("hashes", "read") else "right")
    for r in results:
        shown.add_row(r.store, r.name, f"{r.raw_ms:.3f}", f"{r.request_ms:.3f}", f"{r.gain:.2f} x")
    return shown


def _compare(store: Store) -> list[Compared]:
    assert _VIEWS in SERVICE_VIEWS
    names = [view_name(number) for number in service_views(_VIEWS)]
    times = [b"_ts:" + name.encode() for name in names]
    view_rows = [row_hash_field(name) for name in names]
    pipeline = store.client.pipeline(transaction=False)
    keys = [store.rows.key(entity) for entity in store.rows.entities]
    for key in keys:
        pipeline.hmget(key, view_rows)
    stored = pipeline.execute()
    for key, values in zip(keys, stored, strict=True):
        pipeline.hset(key, _SERVICE_FIELD, b"".join(values))
    pipeline.execute()
    reads = {
        VIEW_ROWS: [*times, *view_rows],
        SERVICE_ROW: [*times, _SERVICE_FIELD],
        SERVICE_ROW_ALONE: [_SERVICE_FIELD],
    }
    case = Case("rows_100", _ROWS, _RING)
    ours = named(Peer.OURS, store)
    with open_peers([store], [case], ()) as peers, RawSocket(store.server.port) as raw:
        contenders = [
            Contender(name, raw.read, _ring(raw, keys, fields), _CALLS)
            for name, fields in reads.items()
        ]
        gateway = peers[case.name][ours]
        gateway.calls = _CALLS
        samples = interleave([*contenders, gateway], _ROUNDS)
    return [_compared(store.encoding.value, name, samples, samples[ours]) for name in reads]


def _compared(encoding: str, name: str, samples: dict[str, Samples], request: Samples) -> Compared:
    saved = samples[VIEW_ROWS].p50_ms - samples[name].p50_ms
    left = request.p50_ms - saved
    return Compared(encoding, name, samples[name].p50_ms, left, request.p50_ms / left)


def _ring(raw: RawSocket, keys: list[bytes], fields: list[bytes]) -> list[RawRead]:
    ring = []
    for i in range(_RING):
        # Other entities for each request, spread over all of them.
        chosen = [keys[(i + j * _RING) % len(keys)] for j in range(_ROWS)]
        data = b"".join(pack_command(b"HMGET", key, *fields) for key in chosen)
        ring.append(RawRead(data, len(raw.reply(data, _ROWS))))
    return ring
