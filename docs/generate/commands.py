"""The page of the command line, from what the commands say of themselves."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from hotfeast.server.cli import app

_NAME = "hotfeast"
_LISTS = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n")
_OPENING = """
Every command shows the same with `--help`. How a shell completes commands and options is said
[below](#shell-completion).
"""
_COMPLETION = """
## Shell completion

`hotfeast --install-completion` has the shell that it is called from complete commands, options and
those values that are a choice (bash, zsh, fish and PowerShell). `_HOTFEAST_COMPLETE=source_bash
hotfeast` prints the script for a shell, here for bash, to be put where a system keeps such files.
"""


def command_page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: Of the checkout.
    """
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=_NAME)
    made = get_docs_for_click(obj=command, ctx=context, name=_NAME, title="Command line")
    title, _, rest = made.partition("\n")
    # Typer's own lists of commands cut their texts short.
    rest = _LISTS.sub("", rest)
    lines = ["| command | |", "|---|---|"]
    for name, text in _summaries(command, _NAME):
        lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {text} |")
    return "\n".join([title, _OPENING, *lines, "", rest, _COMPLETION])


def _summaries(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """All commands, with the first sentence of what they say of themselves."""
    if isinstance(command, typer.core.TyperGroup):
        for each, inner in command.commands.items():
            yield from _summaries(inner, f"{name} {each}")
    else:
        paragraph = " ".join((command.help or "").partition("\n\n")[0].split())
        yield name, re.split(r"(?<=\.) ", paragraph)[0].replace("|", "\\|")
