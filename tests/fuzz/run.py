"""Runs libFuzzer, through Atheris, over one target; see `run_fuzz.sh`.

    run.py fuzz TARGET FOLDER RUNS
    run.py keep TARGET FOLDER

FOLDER is where inputs that reach new code are; it begins with those that `corpus` has and the
target's seeds. Of the inputs one in 32, by their checksum, is also compared with the oracle.
`keep` writes the smallest of them to `corpus`, for the tests.
"""

import sys
import zlib
from pathlib import Path

from tests.fuzz.targets import TARGETS, corpus_file, kept

_COMPARED = 32
# Inputs that are kept of a target, and bytes of the largest.
_KEPT = 150
_LARGEST_KEPT = 400


def fuzz(name: str, folder: Path, runs: str) -> None:
    """Runs until something is found, or as often as was asked for."""
    # Not among the packages for development.
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    target = TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*target.seeds, *kept(name)]):
        (folder / f"begin-{number}").write_bytes(data)

    def test(data: bytes) -> None:
        if zlib.crc32(data) % _COMPARED:
            target.run(data)
        else:
            target.check(data)

    options = [
        f"-runs={runs}",
        f"-max_len={target.longest}",
        "-print_final_stats=1",
        # Python keeps much until its end. Leaks have tests of their own.
        "-detect_leaks=0",
        f"-artifact_prefix={folder.parent}/found-{name}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], test)
    atheris.Fuzz()


def keep(name: str, folder: Path) -> None:
    """Writes inputs to the corpus, in hexadecimal digits, one a line."""
    inputs = {path.read_bytes() for path in folder.iterdir()}
    small = sorted(data for data in inputs if 0 < len(data) <= _LARGEST_KEPT)
    # Spread over all, so that no kind of first bytes is missing.
    step = max(1, -(-len(small) // _KEPT))
    corpus_file(name).write_text("".join(f"{data.hex()}\n" for data in small[::step]))


def main() -> None:
    """The command line."""
    command, name, folder, *runs = sys.argv[1:]
    if command == "keep":
        keep(name, Path(folder))
    else:
        fuzz(name, Path(folder), *runs)


if __name__ == "__main__":
    main()
