"""`hotfeast config`, and the options of commands that take a gateway's settings."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hotfeast.server.cli_options import failures
from hotfeast.server.options import Option, options_of
from hotfeast.server.settings import Settings

if TYPE_CHECKING:
    from hotfeast.server.config import Configuration

app = typer.Typer(
    help="The settings of a gateway, as `serve` would take them from its options, from the "
    "environment and from a file.",
    no_args_is_help=True,
)

Flags = Mapping[str, Any]
"""What the command line has, by the setting's name; None for what it has not."""

_Config = Annotated[
    Path | None,
    typer.Option(
        help="Settings in YAML; else the file that HOTFEAST_CONFIG names. Each option is a key in "
        "it (redis_timeout), and a variable (HOTFEAST_REDIS_TIMEOUT); an option comes before a "
        "variable, and that before the file."
    ),
]


def takes_settings(command: Callable[[Path | None, Flags], None]) -> Callable[..., None]:
    """Gives a command the option `--config`, and one for each setting.

    Args:
        command: Is called with the file and with what the other options have.
    """

    def run(config: Path | None = None, **flags: Any) -> None:
        command(config, flags)

    parameters = {"config": _Config}
    parameters |= {name: _annotation(o) for name, o in options_of(Settings).items()}
    made: Any = run
    made.__name__, made.__doc__ = command.__name__, command.__doc__
    made.__annotations__ = parameters
    made.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in parameters.items()
        ]
    )
    return run


def _annotation(option: Option) -> Any:
    setting = option.setting
    kind: Any = str
    spellings: tuple[str, ...] = (option.flag, *setting.also)
    words = setting.form.words if setting.form is not None else None
    if option.kind is bool:
        kind = bool
        spellings = (f"{option.flag}/--no-{option.flag.removeprefix('--')}",)
    elif option.kind is Path:
        kind = Path
    elif option.kind in (int, float):
        words = "INTEGER" if option.kind is int else "NUMBER"
    elif setting.choices:
        words = "|".join(setting.choices)
    choices = list(setting.choices)
    about = typer.Option(
        *spellings,
        help=setting.text,
        metavar=words,
        show_default=option.shown(option.default) or False,
        autocompletion=(lambda: choices) if choices else None,
    )
    return Annotated[kind | None, about]


def configuration(config: Path | None, flags: Flags) -> "Configuration":
    """The settings that a command is given; what is probably not meant is told.

    Raises:
        ConfigError: They are not valid.
    """
    # Only here: it takes a moment.
    from hotfeast.server.config import read_configuration

    found = read_configuration(flags, os.environ, config)
    for warning in found.warnings:
        typer.echo(f"hotfeast: {warning}", err=True)
    return found


@app.command()
@takes_settings
def check(config: Path | None, flags: Flags) -> None:
    """Checks the settings that `serve` would take: file, variables HOTFEAST_... and options.

    Exit codes: 0, and 2 if one of them is not valid.
    """
    with failures():
        found = configuration(config, flags)
        found.settings()
    where = f"{found.file}: " if found.file is not None else ""
    typer.echo(f"{where}valid; {len(found.values)} settings are not left to their defaults")


@app.command()
@takes_settings
def show(config: Path | None, flags: Flags) -> None:
    """Shows each setting's value, where it comes from, and from when on a change of it counts.

    Secrets are masked. Exit codes: 0, and 2 if a setting is not valid.
    """
    from rich.table import Table
    from rich.text import Text

    from hotfeast.server.config import settings_options, shown
    from hotfeast.server.terminal import consoles

    with failures():
        found = configuration(config, flags)
    table = Table("setting", "value", "from", "a change counts", box=None)
    for name, option in settings_options().items():
        given = found.given.get(name)
        value = shown(option, given.value) if given is not None else ""
        place = (given.place or given.source.value) if given is not None else ""
        table.add_row(name, Text(value), Text(place), option.setting.applies.value)
    console, _ = consoles()
    console.print(table)


@app.command()
def schema() -> None:
    """Prints the JSON schema of a file of settings, for editors and checks."""
    from hotfeast.server.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
