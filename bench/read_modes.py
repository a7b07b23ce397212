"""The constants of `hotfeast.server.read_modes`: what HMGET and HGETALL cost Redis.

Three costs are fitted to raw reads of 100 hashes of 275 fields, in one run: HMGET of some fields
from a hash table (a field found), of the same number from the start and from the end of a listpack
(an entry passed over), and HGETALL of a listpack (a field sent unasked). What counts is how they
compare, since the choice between the commands depends on nothing else.
"""

from collections.abc import Callable, Sequence

import numpy as np
from rich.table import Table

from bench.data import Rows
from bench.measure import Contender, interleave, no_garbage_collection
from bench.raw import RawRead, RawSocket, pack_command
from bench.stores import Encoding, open_store
from hotfeast.server.read_modes import FIELD_COST, SCAN_COST, WHOLE_COST

_HASHES = 100
_ASKED = 50
_ROUNDS = 30
_CALLS = 10


def measure(rows: Rows, say: Callable[[str], None]) -> dict[str, float]:
    """Microseconds for a field found, an entry passed over, and a field sent unasked."""
    found = scanned = whole = 0.0
    for encoding in Encoding:
        say(f"{encoding}: loading, reading")
        with open_store(rows, encoding) as store, RawSocket(store.server.port) as raw:
            keys = [rows.key(entity) for entity in rows.entities[:_HASHES]]
            names: list[bytes] = list(store.client.hkeys(keys[0]))
            first = _microseconds(raw, _hmget(keys, names[:_ASKED]))
            if encoding is Encoding.HASH_TABLE:
                found = first / _HASHES / _ASKED
                continue
            last = _microseconds(raw, _hmget(keys, names[-_ASKED:]))
            passed = len(names) - _ASKED
            scanned = (last - first) / _HASHES / _ASKED / passed
            all_fields = _microseconds(raw, [pack_command(b"HGETALL", key) for key in keys])
            whole = all_fields / _HASHES / len(names)
    return {"FIELD_COST": found, "SCAN_COST": scanned, "WHOLE_COST": whole}


def table(costs: dict[str, float]) -> Table:
    """What was measured beside what the gateway decides by, in relation to a field found."""
    used = {"FIELD_COST": FIELD_COST, "SCAN_COST": SCAN_COST, "WHOLE_COST": WHOLE_COST}
    out = Table(title="Costs of reading hashes")
    for column in ("constant", "measured, us", "over FIELD_COST", "in use, us", "over FIELD_COST"):
        out.add_column(column, justify="left" if column == "constant" else "right")
    for name, cost in costs.items():
        out.add_row(
            name,
            f"{cost:.4f}",
            f"{cost / costs['FIELD_COST']:.3f}",
            f"{used[name]:.4f}",
            f"{used[name] / FIELD_COST:.3f}",
        )
    return out


def _hmget(keys: Sequence[bytes], names: Sequence[bytes]) -> list[bytes]:
    return [pack_command(b"HMGET", key, *names) for key in keys]


def _microseconds(raw: RawSocket, commands: Sequence[bytes]) -> float:
    data = b"".join(commands)
    read = RawRead(data, len(raw.reply(data, len(commands))))
    with no_garbage_collection():
        samples = interleave([Contender("raw", raw.read, [read], _CALLS)], _ROUNDS)["raw"]
    return float(np.percentile(samples.rounds, 10)) / 1e3
