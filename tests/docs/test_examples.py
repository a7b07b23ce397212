"""The examples in the client's docstrings are run, and where one says in a comment what comes out,
that is compared."""

import ast
import asyncio
import textwrap
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from doc_blocks import Block, docstring_blocks
from doc_python import run_python
from doc_world import World

import hotfeast.clients
from hotfeast.clients import FeatureClient, MissingPackage

FOLDER = Path(__file__).resolve().parents[2] / "clients"
EXAMPLES = [
    block for path in sorted(FOLDER.glob("*.py")) for block in docstring_blocks(path, path.name)
]
COLUMNS = {"user_id": [1, 2], "clicks": [5, 7], "event_timestamp": [datetime.now(UTC)] * 2}


class Model:
    """What examples give features to."""

    def predict(self, matrix: np.ndarray[Any, Any]) -> Any:
        return matrix[:, -1]


def names_for(client: FeatureClient) -> dict[str, Any]:
    """What examples take as given."""
    asked = {"user_id": [1, 2], "product_id": [1082185, 1029743]}
    return {
        **{name: getattr(hotfeast.clients, name) for name in hotfeast.clients.__all__},
        "UTC": UTC,
        "answer": client.get_online_features(
            ["user_stats:spend", "user_stats:visits"], {"user_id": [1, 2]}
        ),
        "asyncio": asyncio,
        "batches": [COLUMNS, COLUMNS],
        "client": client,
        "columns": COLUMNS,
        "datetime": datetime,
        "entities": asked,
        "first": asked,
        "frame": client.get_online_features("recommendation", asked).to_pandas(),
        "model": Model(),
        "network": lambda tensor: tensor,
        "np": np,
        "pyarrow": pyarrow,
        "second": asked,
    }


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 25
    assert {block.language for block in EXAMPLES} == {"python"}


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.place)
def test_the_example_of(block: Block, world: World) -> None:
    with world.inside(), FeatureClient(world.address) as client:
        names = names_for(client)
        text, expected = compared(world.here(block.text))
        if (" client." in f" {text}" and "await " in text) or "async for" in text:
            text = inside_a_client(text, world)
        if "to_torch" in text and find_spec("torch") is None:
            with pytest.raises(MissingPackage):
                run_python(text, block.place, names)
            return
        run_python(text, block.place, names)
    if expected is not None:
        assert names["result"] == ast.literal_eval(expected)


def inside_a_client(text: str, world: World) -> str:
    """An example of the client for asyncio, with a client."""
    if "AsyncFeatureClient(" in text:
        return text
    return f"async with AsyncFeatureClient({world.address!r}) as client:\n" + textwrap.indent(
        text, "    "
    )


def compared(text: str) -> tuple[str, str | None]:
    """An expression and the literal in its comment, if that is what an example is: then `result` is
    assigned."""
    code, mark, comment = text.partition("  # ")
    try:
        ast.literal_eval(comment.strip())
    except (SyntaxError, ValueError):
        return text, None
    return f"result = ({code.strip()})\n", comment.strip() if mark else None
