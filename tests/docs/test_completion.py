"""Shells complete `hotfeast`, by the scripts that it prints for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hotfeast.server.cli import app

PROGRAM = Path(sys.executable).with_name("hotfeast")

# What bash does at a tab: it looks up the function of the command and calls it with the words so
# far. Each line of standard input is one line that is typed.
BASH = """
eval "$(_HOTFEAST_COMPLETE=source_bash hotfeast)"
function=$(complete -p hotfeast | sed -E 's/.*-F ([^ ]+).*/\\1/')
while IFS= read -r typed; do
    read -r -a COMP_WORDS <<<"$typed"
    [[ $typed == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$typed COMP_POINT=${#typed} COMPREPLY=()
    "$function" hotfeast "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "${COMPREPLY[*]}"
done
"""


def in_bash(*typed: str) -> list[list[str]]:
    """What bash offers for each line."""
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        input="".join(f"{line}\n" for line in typed),
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not done.stderr, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_commands_options_and_choices() -> None:
    commands, groups, options, choices = in_bash(
        "hotfeast mat", "hotfeast traffic ro", "hotfeast serve --max-connection-a",
        "hotfeast serve --status-mode ",
    )  # fmt: skip
    assert commands == ["materialize", "materialize-incremental"]
    assert groups == ["rollback"]
    assert options == ["--max-connection-age", "--max-connection-age-grace"]
    assert choices == ["strict", "feast"]


@pytest.mark.parametrize(
    ("shell", "words"),
    [("zsh", "#compdef hotfeast"), ("fish", "complete --command hotfeast"), ("powershell", "Reg")],
)
def test_other_shells_have_a_script(shell: str, words: str) -> None:
    told = CliRunner().invoke(
        app, prog_name="hotfeast", env={"_HOTFEAST_COMPLETE": f"source_{shell}"}
    )
    assert told.exit_code == 0
    assert words in told.stdout
