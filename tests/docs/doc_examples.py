"""What the examples in the client's docstrings take as given, and how they are run."""

import ast
import asyncio
import re
import textwrap
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

import hotfeast.clients
from hotfeast.clients import FeatureClient

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


def inside_a_client(text: str, address: str) -> str:
    """An example, with a client for asyncio around it where it takes one as given."""
    if not re.search(r"\b(await|async)\b", text) or "AsyncFeatureClient(" in text:
        return text
    return f"async with AsyncFeatureClient({address!r}) as client:\n" + textwrap.indent(
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
