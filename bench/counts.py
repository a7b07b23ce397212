"""Instruction counts of the hot path's stages, as a gate: `python -m bench counts`.

A count, unlike a time, is the same on a busy machine. Callgrind runs `count_stages`, in which each
stage has N turns and then 2N; the difference over N is what one turn takes, with everything that
happens once taken out of it. Counts are kept in `counts.json` and may grow by 3%.

What a count depends on besides the code, and what is done about it:

- libc chooses memcpy and the like by the processor: `GLIBC_TUNABLES` makes it choose those that
  every x86-64 has;
- Python's hashes are random: `PYTHONHASHSEED=0`. The table of entities has a random seed of its
  own, which moves "build keys and commands" by half a percent; all else was the same to 0.1% in
  repeated runs, and to 0.6% under another build of the same CPython;
- the compiler, and CPython, whose objects the stages make: `counts.json` has a set of counts for
  each toolchain that counts were taken with. A toolchain without a set is held against the set that
  was taken last, within 20%, and that is said: between GCC 11 and 12 stages differed by up to 10%,
  between GCC and clang by up to 65%. `--update` adds the set that is missing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from bench.count_stages import PARTS_PER_STAGE, TURNS

FILE = Path(__file__).with_name("counts.json")
TOLERANCE = 0.03
"""By this share a count may be above the one that is kept."""
TOLERANCE_ACROSS_TOOLCHAINS = 0.2
"""The same where counts of another toolchain are all there is."""

_TUNABLES = (
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3,-SSE4_1,"
    "-SSE4_2,-BMI2,-MOVBE"
)
# Seconds; it takes about 15.
_LIMIT = 300
UPDATE = "make bench-counts UPDATE=--update"
_NEEDS = "instruction counts need valgrind: apt-get install valgrind"


class CannotCount(RuntimeError):
    """The counts could not be taken."""


@dataclass(frozen=True)
class Counts:
    """What was counted.

    Attributes:
        toolchain: What compiled the hot path, and the Python that runs it.
        instructions: By stage the instructions of one row, value or request.
        units: By stage which of them.
    """

    toolchain: str
    instructions: dict[str, float]
    units: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """A stage's count beside the one that is kept.

    Attributes:
        stage: Its name.
        unit: Row, value or request.
        counted: Instructions for one of them, now.
        kept: The same as the file has it; None for a stage that it does not have.
        tolerance: By what share `counted` may be above it.
    """

    stage: str
    unit: str
    counted: float
    kept: float | None
    tolerance: float

    @property
    def change(self) -> float:
        """By what share the count has grown; infinite for a new stage."""
        return float("inf") if self.kept is None else self.counted / self.kept - 1

    @property
    def passed(self) -> bool:
        """Whether that is within the tolerance."""
        return self.change <= self.tolerance


def count() -> Counts:
    """Runs all stages under callgrind.

    Raises:
        CannotCount: There is no valgrind, or it failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CannotCount(_NEEDS)
    with tempfile.TemporaryDirectory(prefix="hotfeast-counts-") as folder:
        command = [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/part",
            "--dump-before=getppid", sys.executable, "-m", "bench.count_stages",
        ]  # fmt: skip
        # Little of the environment: its size moves the stack, and its content other things.
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONHASHSEED": "0",
            "GLIBC_TUNABLES": _TUNABLES,
            "LC_ALL": "C.UTF-8",
        }
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_LIMIT,
                cwd=FILE.parents[1],
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CannotCount(f"counting took longer than {_LIMIT} s") from None
        if done.returncode != 0:
            raise CannotCount(f"valgrind failed:\n{done.stderr[-4000:]}")
        said: dict[str, Any] = json.loads(done.stdout)
        totals = _totals(Path(folder), len(said["stages"]))
    instructions = {}
    for i, (stage, (divisor, _)) in enumerate(said["stages"].items()):
        _, once, twice = totals[PARTS_PER_STAGE * i : PARTS_PER_STAGE * (i + 1)]
        instructions[stage] = (twice - once) / TURNS / divisor
    return Counts(
        f"{said['compiler']}, CPython {said['python']}",
        instructions,
        {stage: unit for stage, (_, unit) in said["stages"].items()},
    )


def _totals(folder: Path, stages: int) -> list[int]:
    """The counts of the parts, without what came before the first stage."""
    totals = []
    # Part 1 ends where the first stage begins.
    for number in range(2, 2 + PARTS_PER_STAGE * stages):
        path = folder / f"part.{number}"
        found = re.search(r"^totals: (\d+)", path.read_text(), re.M) if path.is_file() else None
        if found is None:
            raise CannotCount(f"valgrind wrote no count {number} of {PARTS_PER_STAGE * stages}")
        totals.append(int(found[1]))
    return totals


def compare(counts: Counts, kept: Mapping[str, Any]) -> tuple[list[Comparison], str]:
    """Holds counts against those of the same toolchain, else those that were taken last.

    Args:
        counts: What was counted.
        kept: The content of the file.

    Returns:
        A comparison of each stage, and the toolchain that they are with.

    Raises:
        CannotCount: The file has none at all, or stages that are not counted any more.
    """
    if not kept:
        raise CannotCount(f"{FILE.name} has no counts; {UPDATE} takes them")
    toolchain = counts.toolchain if counts.toolchain in kept else list(kept)[-1]
    if gone := sorted(set(kept[toolchain]) - set(counts.instructions)):
        raise CannotCount(f"{FILE.name} has stage {gone[0]!r}, which is not counted; {UPDATE}")
    own = toolchain == counts.toolchain
    return [
        Comparison(
            stage=stage,
            unit=counts.units[stage],
            counted=counted,
            kept=kept[toolchain].get(stage),
            tolerance=TOLERANCE if own else TOLERANCE_ACROSS_TOOLCHAINS,
        )
        for stage, counted in counts.instructions.items()
    ], toolchain


def read() -> dict[str, Any]:
    """The kept counts, by toolchain and stage; empty where there is no file."""
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return kept


def update(counts: Counts) -> None:
    """Keeps counts, in the place of those of the same toolchain."""
    kept = read()
    kept.pop(counts.toolchain, None)
    kept[counts.toolchain] = {stage: round(n, 2) for stage, n in counts.instructions.items()}
    FILE.write_text(json.dumps(kept, indent=2) + "\n")


def table(comparisons: list[Comparison]) -> Table:
    """The counts beside those that are kept."""
    out = Table(title="Instructions", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for head in ("stage", "for a", "counted", "kept", "change", "verdict"):
        justify: JustifyMethod = "left" if head in ("stage", "for a", "verdict") else "right"
        out.add_column(head, justify=justify, no_wrap=True)
    for c in comparisons:
        out.add_row(
            c.stage,
            c.unit,
            f"{c.counted:,.1f}",
            "" if c.kept is None else f"{c.kept:,.1f}",
            "new" if c.kept is None else f"{c.change:+.1%}",
            "[green]kept[/green]" if c.passed else "[bold red]PAST[/bold red]",
        )
    return out
