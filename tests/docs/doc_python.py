"""Runs blocks of Python."""

import ast
import asyncio
import contextlib
import inspect
import io
from typing import Any


def run_python(text: str, place: str, names: dict[str, Any]) -> str:
    """Runs a block; `await` may stand at its top, as in a notebook.

    Args:
        text: The block.
        place: What it is called in tracebacks.
        names: Its namespace, which keeps what it assigns.

    Returns:
        What it prints.
    """
    code = compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
    return printed.getvalue()
