"""One fault after another under load, and the table of what became of it."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from bench.chaos.faults import FAULTS, Fault
from bench.chaos.load import Load
from bench.chaos.model import SERVICE, USERS, Findings, Model
from bench.chaos.world import Kind, World
from hotfeast.clients import FeatureClient, Tls

OUT = Path("bench/out")

# Where Debian's package `libfaketime` has it, and other systems.
_FAKED = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")
# Seconds for all to be fine again, and that it must stay so.
_PATIENCE = 60.0
_CALM = 0.5


@dataclass(frozen=True)
class Trial:
    """A fault and what became of it.

    Attributes:
        name, done: The fault's.
        true: Whether it is promised that nothing is wrong.
        keeps: Whether it is promised that nothing is lost.
        reads, pushes: By outcome how many calls ended while it lasted and until all was fine.
        recovery: Seconds after its end until all was fine; None where it did not become so.
        rows: Of answers that were judged.
        wrong, lost: Of them with wrong values; older than what had been acknowledged.
        examples: Of both.
    """

    name: str
    done: str
    true: bool
    keeps: bool
    reads: Mapping[str, int]
    pushes: Mapping[str, int]
    recovery: float | None
    rows: int
    wrong: int
    lost: int
    examples: Sequence[str]

    @property
    def kept(self) -> bool:
        """Whether it went as it should."""
        broken = (self.true and self.wrong) or (self.keeps and self.lost)
        return self.recovery is not None and not broken


def run(only: Sequence[str], say: Callable[[str], None]) -> list[Trial]:
    """Tries all faults, and writes `chaos.json`, `chaos.md` and what the gateway has said,
    `chaos.log`, to `bench/out`.

    Args:
        only: Words of the names of those that are tried; all if empty.
        say: Is told what happens.

    Raises:
        RuntimeError: The gateway does not start, or does not serve before anything is done to it.
    """
    faked = next((path for place in _FAKED for path in Path("/").glob(place[1:])), None)
    wanted = [f for f in FAULTS if not only or any(word in f.name for word in only)]
    trials: list[Trial] = []
    ends: list[Findings] = []
    outputs = []
    # With a clock that can be set other things are not as they are: only where it is needed.
    for kind in Kind:
        faults = [fault for fault in wanted if fault.kind is kind]
        if not faults:
            continue
        if kind is Kind.CLOCK and faked is None:
            say("no libfaketime (apt-get install libfaketime): the clock is left alone")
            continue
        say(f"starting a gateway: {kind.value}")
        with World(kind, faked) as world:
            end = _try_all(faults, world, say, trials)
            if kind is not Kind.UNCONFIRMED:
                # What may be lost there was counted when it was.
                ends.append(end)
            outputs.append(world.output)
    if ends:
        trials.append(_summed(ends))
    _write(trials, "".join(outputs))
    return trials


def _try_all(
    faults: Sequence[Fault], world: World, say: Callable[[str], None], trials: list[Trial]
) -> Findings:
    """Tries faults.

    Args:
        faults: One after another.
        world: They are done to it.
        say: Is told what happens.
        trials: Gets what became of each.

    Returns:
        What reading all rows once more has found.
    """
    model = Model()
    address = f"127.0.0.1:{world.to_gateway.port}"
    with Load(address, world.tls, model) as load:
        if load.wait_until_fine(time.monotonic(), 60, _CALM) is None:
            raise RuntimeError(f"the gateway does not serve:\n{world.output[-4000:]}")
        for fault in faults:
            say(fault.name)
            trials.append(_try(fault, world, load, model))
    model.forget()
    _check_all(address, world.tls, model)
    return model.findings


def _summed(ends: Sequence[Findings]) -> Trial:
    """What reading all rows once more has found, of all gateways."""
    rows, wrong, lost = (sum(counts) for counts in zip(*(end[:3] for end in ends), strict=True))
    return Trial(
        "in the end", "every user read once more, of each gateway", True, True, {"OK": len(ends)},
        {}, 0.0, rows, wrong, lost, [example for end in ends for example in end.examples],
    )  # fmt: skip


def _try(fault: Fault, world: World, load: Load, model: Model) -> Trial:
    model.forget()
    mark = load.mark()
    with fault.inflict(world):
        pass
    recovery = load.wait_until_fine(time.monotonic(), _PATIENCE, _CALM)
    found = model.findings
    reads, pushes = load.outcomes(mark, "read"), load.outcomes(mark, "push")
    return Trial(
        fault.name, fault.done, fault.true, fault.keeps, dict(reads), dict(pushes), recovery,
        found.rows, found.wrong, found.lost, found.examples,
    )  # fmt: skip


def _check_all(address: str, tls: Tls | None, model: Model) -> None:
    """Reads all users' rows, when nobody pushes any more."""
    users = list(range(USERS))
    with FeatureClient(address, tls=tls) as client:
        answer = client.get_online_features(SERVICE, {"user": users})
    model.judge(users, dict(model.acknowledged), answer.to_dict(), answer.statuses)


_HEADS = (
    "fault",
    "what was done",
    "reads",
    "pushes",
    "s to recover",
    "rows checked",
    "wrong",
    "lost",
)


def _cells(trial: Trial) -> tuple[str, ...]:
    wrong, lost = (
        f"{count}{' (not promised)' if count and not promised else ''}"
        for count, promised in ((trial.wrong, trial.true), (trial.lost, trial.keeps))
    )
    return (
        trial.name, trial.done, _told(trial.reads), _told(trial.pushes),
        "did not" if trial.recovery is None else f"{trial.recovery:.1f}",
        f"{trial.rows:,}", wrong, lost,
    )  # fmt: skip


def _told(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in Counter(outcomes).most_common())


def table(trials: Sequence[Trial]) -> Table:
    """What became of all faults."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for head in _HEADS:
        made.add_column(head)
    for trial in trials:
        made.add_row(*_cells(trial), style="" if trial.kept else "bold red")
    return made


def to_markdown(trials: Sequence[Trial]) -> str:
    """The same in Markdown."""
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    lines += ["| " + " | ".join(_cells(trial)) + " |" for trial in trials]
    return "\n".join(lines) + "\n"


def _write(trials: Sequence[Trial], output: str) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    content = [asdict(trial) | {"kept": trial.kept} for trial in trials]
    (OUT / "chaos.json").write_text(json.dumps(content, indent=2) + "\n")
    (OUT / "chaos.md").write_text(to_markdown(trials))
    (OUT / "chaos.log").write_text(output)
