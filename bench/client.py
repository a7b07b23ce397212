"""What the Python client adds to a call, and what it makes of an answer, beside Feast's own.

Answers of 50 features are decoded by the client from their bytes, and beside that by protobuf and
Feast's `OnlineResponse`; what both make is compared before anything is timed. The whole call, an
array of entities to a matrix of features, stands beside the bare gRPC call of a request that is
already serialized to an answer that nobody decodes.

Writes `client.json`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesResponse as FeastResponse,
)
from rich.table import Table

from bench import OUT
from bench.data import FIVE_VIEWS, JOIN_KEY, Rows, choose_entities, make_request
from bench.measure import Contender, Samples, interleave, machine
from bench.parts import Results, parts_table, write_parts
from bench.processes import OUR_METHOD, caller, open_gateway
from bench.stores import Encoding, open_store
from hotfeast.clients import FeatureClient, OnlineFeatures

_ENTITIES = 10_000
"""As many as the largest answer has rows."""
_CALLS = {100: 20, 10_000: 1}
"""By rows of an answer, calls in a round."""
_WHOLE_ROWS = 100
_WHOLE_CALLS = 50
_REQUESTS = 100
_BARE, _WHOLE = "bare gRPC call, bytes to bytes", "client, array to NumPy matrix"
_FEAST_DF, _FEAST_ARROW = "protobuf, Feast's to_df", "protobuf, Feast's to_arrow"


def run(rounds: int = 10, say: Callable[[str], None] = print) -> Results:
    """Measures, and writes the results.

    Args:
        rounds: Turns that each contender has.
        say: Is told what is going on.
    """
    rows = Rows.make(_ENTITIES)
    say(f"loading {_ENTITIES:,} entities, starting the gateway")
    results: Results = {}
    with ExitStack() as stack:
        store = stack.enter_context(open_store(rows, Encoding.HASH_TABLE))
        facts = machine(store.client)
        port = stack.enter_context(open_gateway(store.repo))
        call = caller(stack, port, OUR_METHOD)
        for count, calls in _CALLS.items():
            say(f"decoding {count:,} rows")
            (entities,) = choose_entities(rows, count, 1)
            data = call(make_request(rows, entities))
            _check(data)
            contenders = [Contender(name, do, [data], calls) for name, do in _decoders().items()]
            results[f"answer of {count:,} x 50"] = interleave(contenders, rounds)
        say("whole calls")
        client = stack.enter_context(FeatureClient(f"127.0.0.1:{port}", timeout=30))
        results[f"call for {_WHOLE_ROWS} x 50"] = _whole_calls(rows, client, call, rounds)
    write_parts(OUT / "client.json", facts, results)
    return results


def table(results: Results) -> Table:
    """The results as a table; each beside the first of its part."""
    bases = {name: next(iter(samples)) for samples in results.values() for name in samples}
    return parts_table("the Python client, milliseconds", "of the first", results, bases)


def _decoders() -> dict[str, Callable[[bytes], Any]]:
    return {
        _FEAST_DF: lambda data: _feast(data).to_df(),
        _FEAST_ARROW: lambda data: _feast(data).to_arrow(),
        "client, to_df": lambda data: _ours(data).to_df(),
        "client, to_pandas": lambda data: _ours(data).to_pandas(),
        "client, to_arrow": lambda data: _ours(data).to_arrow(),
        "client, to_numpy": lambda data: _ours(data).to_numpy(),
    }


def _feast(data: bytes) -> Any:
    return OnlineResponse(FeastResponse.FromString(data))


def _ours(data: bytes) -> OnlineFeatures:
    return OnlineFeatures(data, entities=[JOIN_KEY])


def _check(data: bytes) -> None:
    """
    Raises:
        AssertionError: The client and Feast do not make the same of an answer.
    """
    theirs, ours = _feast(data).to_df(), _ours(data)
    assert theirs.equals(ours.to_df())
    assert theirs.equals(ours.to_arrow().to_pandas())
    assert np.array_equal(theirs.drop(columns=[JOIN_KEY]).to_numpy(), ours.to_numpy(), True)


def _whole_calls(
    rows: Rows, client: FeatureClient, call: Callable[[bytes], bytes], rounds: int
) -> dict[str, Samples]:
    chosen = choose_entities(rows, _WHOLE_ROWS, _REQUESTS)

    def whole(entities: Any) -> Any:
        return client.get_online_features(FIVE_VIEWS, {JOIN_KEY: entities}).to_numpy()

    contenders = [
        Contender(_BARE, call, [make_request(rows, e) for e in chosen], _WHOLE_CALLS),
        Contender(_WHOLE, whole, [np.array(e) for e in chosen], _WHOLE_CALLS),
    ]
    return interleave(contenders, rounds)
