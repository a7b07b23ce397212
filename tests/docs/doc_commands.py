"""Runs the commands in blocks of bash.

Commands of `hotfeast` run in this process, through the app that the console script calls. What does
not end by itself, takes minutes or needs a network is checked instead: that it exists, and that it
takes these options.
"""

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from doc_world import World
from packaging.requirements import Requirement
from typer.testing import CliRunner

from bench.__main__ import app as bench_app
from hotfeast.server.cli import app

# Those whose exit code 1 says that something was found.
_FINDING = {"audit", "diff", "doctor", "lint"}
_HOTFEAST = typer.main.get_command(app)
_BENCH = typer.main.get_command(bench_app)


def run_commands(text: str, world: World) -> str:
    """Runs all commands of a block.

    Args:
        text: The block.
        world: What they are run against.

    Returns:
        What they print.

    Raises:
        ValueError: There is no way to run one of them.
        AssertionError: One failed.
    """
    return "".join(_run(command, world) for command in split_commands(world.here(text)))


def split_commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, each as its words; without comments and assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if set(word) <= set(";&|"):
                yield command
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)
        if command:
            yield command


def _run(command: Sequence[str], world: World) -> str:
    program, arguments = command[0], list(command[1:])
    if command[:3] == ["python", "-m", "bench"]:
        return _parse(_BENCH, arguments[2:])
    if program.endswith("bin/python"):
        return _script(arguments, world)
    runner = _PROGRAMS.get(program)
    if runner is None:
        raise ValueError(f"there is no way to run {shlex.join(command)!r}")
    return runner(arguments, world)


def _hotfeast(arguments: list[str], world: World) -> str:
    if arguments[0] == "serve":
        return _parse(_HOTFEAST, arguments)
    result = CliRunner().invoke(app, arguments)
    allowed = {0, 1} if arguments[0] in _FINDING else {0}
    assert result.exit_code in allowed, (arguments, result.output, result.exception)
    return result.stdout


def _parse(command: Any, arguments: list[str]) -> str:
    """That a command takes these arguments."""
    context = typer.Context(command)
    while isinstance(command, typer.core.TyperGroup):
        name, *arguments = arguments
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
    with command.make_context(command.name, arguments):
        return ""


def _make(arguments: list[str], world: World) -> str:
    subprocess.run(
        ["make", "-n", *arguments], cwd=world.checkout, check=True, capture_output=True, timeout=60
    )
    return ""


def _pip(arguments: list[str], world: World) -> str:
    """That what is to be installed is this distribution, with extras that it has."""
    assert arguments[0] == "install", arguments
    wanted = Requirement(arguments[1])
    project = tomllib.loads((world.checkout / "pyproject.toml").read_text())["project"]
    assert wanted.name == project["name"], wanted
    assert wanted.extras <= set(project["optional-dependencies"]), wanted
    return ""


def _script(arguments: list[str], world: World) -> str:
    """That a program of the checkout takes these arguments."""
    path = world.checkout / arguments[0]
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _parse(typer.main.get_command(module.app), arguments[1:])


_PROGRAMS: dict[str, Callable[[list[str], World], str]] = {
    "hotfeast": _hotfeast,
    "make": _make,
    "pip": _pip,
}
