"""The page of the command line, from what the commands say of themselves."""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from hotfeast.server.cli import app

_NAME = "hotfeast"
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
    return f"{title}\n{_OPENING}\n{rest}\n{_COMPLETION}"
