"""Blocks of code in the checkout's Markdown files and docstrings, and what they say of how to run
them.

A block's info string is its language, and attributes after it:

    ```bash                                 is run
    ```yaml for="aliases"                   is read by what such files are for
    ```bash run="elsewhere: tests/server/test_rolling.py::test_it"   is run by that test
    ```bash run="not: needs a cluster"      is not run, which `test_blocks.py` has to know of
    ```text                                 is what the block before it printed; `...` is anything
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

# Folders below the checkout whose files are not its own.
_NOT_OURS = {"build", "data", "dist", "node_modules", "out"}
_ATTRIBUTE = re.compile(r'\s+(\w+)="([^"]*)"')
_EXAMPLE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One of them.

    Attributes:
        place: File and line, for messages.
        language: The first word of its info string.
        attributes: What else that has.
        text: What is in it.
    """

    place: str
    language: str
    attributes: dict[str, str]
    text: str


def markdown_files(checkout: Path) -> list[Path]:
    """All Markdown files of a checkout."""
    return sorted(
        path
        for path in checkout.rglob("*.md")
        if not any(
            part in _NOT_OURS or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(checkout).parts[:-1]
        )
    )


def page_blocks(path: Path, name: str) -> list[Block]:
    """The blocks of a page, in order.

    Args:
        path: The page.
        name: What it is called in messages.

    Raises:
        ValueError: An info string is not understood, or code is indented instead of fenced, so that
            it cannot have one.
    """
    found = []
    for token in MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block"):
            continue
        place = f"{name}:{(token.map or [0])[0] + 1}"
        language = re.match(r"\w+", token.info)
        if language is None:
            raise ValueError(f"{place}: a block of code needs a fence and a language")
        rest = token.info[language.end() :]
        if _ATTRIBUTE.sub("", rest).strip():
            raise ValueError(f'{place}: {rest.strip()!r} is no attribute of the form name="value"')
        found.append(Block(place, language[0], dict(_ATTRIBUTE.findall(rest)), token.content))
    return found


def docstring_blocks(path: Path, name: str) -> Iterator[Block]:
    """The blocks in the docstrings of a Python file.

    Args:
        path: The file.
        name: What it is called in messages.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for _, language, text in _EXAMPLE.findall(inspect.cleandoc(ast.get_docstring(node) or "")):
            title = name if isinstance(node, ast.Module) else f"{name}:{node.lineno} {node.name}"
            yield Block(title, language, {}, textwrap.dedent(text))
