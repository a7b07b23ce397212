"""What the commands have in common: options, times in them, and how failures are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.forms import parse_time

RepoOption = Annotated[Path, typer.Option(help="Folder with feature_store.yaml.")]
AddressOption = Annotated[
    str, typer.Option(help="HOST:PORT of the gateway.", envvar="HOTFEAST_ADDRESS")
]
RedisOption = Annotated[
    str | None,
    typer.Option(help="redis://, rediss:// or unix:// URL, instead of the repository's."),
]
ViewsOption = Annotated[
    list[str] | None, typer.Option("--views", "-v", help="A view; all of them unless given.")
]
ProfilesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of profiles; unless given, beside the registry's file, by its name with "
        ".profiles."
    ),
]


def option_time(text: str | None, option: str) -> datetime | None:
    """The time that an option names; None where it is not given.

    Args:
        text: What was given.
        option: The option, for the error.

    Raises:
        typer.BadParameter: It is no time.
    """
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@contextmanager
def failures() -> Iterator[None]:
    """Has what cannot start be told in a line, with exit code 2.

    Raises:
        typer.Exit: With that code.
    """
    # Only here: it takes a moment, and a wrong option should be told at once.
    from hotfeast.server.errors import StartFailure

    try:
        yield
    except StartFailure as failure:
        typer.echo(f"hotfeast: {failure}", err=True)
        raise typer.Exit(2) from None
