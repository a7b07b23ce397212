"""Whether the parity tests notice: each of many small faults is put into a copy, and must be found.

    python tests/parity/mutations.py [part of a fault's name ...]

Each fault is one replacement in the text of the gateway. It is made in a copy of the checkout,
whose extensions are built anew where they need it, and the parity tests run there. Exit code 1: a
fault was not found, or the tests fail without one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# Repositories of each run, and the seed that all runs have unless the environment names another.
REPOS = "60"
SEED = "1"


@dataclass(frozen=True)
class Mutation:
    """A fault: `old` stands exactly once in the file and becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "join key values not in the order of names",
        "hotpath/plan.pyx",
        "parts = sorted(key_recipe.parts)",
        "parts = sorted(key_recipe.parts, key=lambda part: part[1])",
    ),
    Mutation(
        "join key names in another order",
        "hotpath/plan.pyx",
        "names = sorted(join_keys) or",
        "names = sorted(join_keys, reverse=True) or",
    ),
    Mutation(
        "TTL not checked",
        "server/plan.py",
        "ttl_seconds=view.ttl_seconds,",
        "ttl_seconds=0,",
    ),
    Mutation(
        "TTL a second longer",
        "hotpath/splice.pyx",
        "event.seconds += view.ttl_seconds\n",
        "event.seconds += view.ttl_seconds + 1\n",
    ),
    Mutation(
        "TTL a second shorter",
        "hotpath/splice.pyx",
        "event.seconds += view.ttl_seconds\n",
        "event.seconds += view.ttl_seconds - 1\n",
    ),
    Mutation(
        "TTL's fraction dropped",
        "hotpath/plan.pyx",
        "view.ttl_nanos = micros * 1000",
        "view.ttl_nanos = 0",
    ),
    Mutation(
        "TTL over when age equals it",
        "hotpath/splice.pyx",
        "event.seconds == now_seconds and event.nanos < now_nanos",
        "event.seconds == now_seconds and event.nanos <= now_nanos",
    ),
    Mutation(
        "alias ignored",
        "server/registry.py",
        "alias=projection.name_alias or None,",
        "alias=None,",
    ),
    Mutation(
        "alias in the storage name",
        "server/plan.py",
        "        storage_name = view.name\n",
        "        storage_name = projection.alias or view.name\n",
    ),
    Mutation(
        "join key map ignored",
        "server/registry.py",
        "join_key_map=dict(projection.join_key_map or {}),",
        "join_key_map={},",
    ),
    Mutation(
        "int64 keys stored as int32",
        "hotpath/batch.pyx",
        "at = put_u32(put_u32(at, value_type), size)",
        "at = put_u32(put_u32(at, INT32_VAL if value_type == INT64_VAL else value_type), size)",
    ),
    Mutation(
        "int32 not converted to int64",
        "hotpath/batch.pyx",
        "                if declared == 0:\n",
        "                if declared == 0 or member == INT32_VAL:\n",
    ),
    Mutation(
        "int64 not converted to int32",
        "hotpath/batch.pyx",
        "                if declared == 0:\n",
        "                if declared == 0 or member == INT64_VAL:\n",
    ),
    Mutation(
        "int32 keys without their sign",
        "hotpath/batch.pyx",
        "cell.number = <int32_t>number if member",
        "cell.number = <uint32_t>number if member",
    ),
    Mutation(
        "timestamps as int64 keys",
        "hotpath/batch.pyx",
        "at = put_u32(put_u32(at, value_type), size)",
        "at = put_u32(put_u32(at, INT64_VAL if value_type == UNIX_TIMESTAMP_VAL else value_type), "
        "size)",
    ),
    Mutation(
        "different numbers taken for one entity",
        "hotpath/batch.pyx",
        "return a.number == b.number",
        "return True",
    ),
    Mutation(
        "project not in the key",
        "hotpath/plan.pyx",
        'self.project = self.own(definition.project.encode("utf-8"))',
        'self.project = self.own(b"")',
    ),
    Mutation(
        "entityless key without its value",
        "hotpath/plan.pyx",
        '        out.append(struct.pack("<II", STRING_VAL, 0))\n',
        "        pass\n",
    ),
    Mutation(
        "_vN not in the storage name",
        "server/plan.py",
        'return f"{view}_v{version}" if version > 0 else view',
        "return view",
    ),
    Mutation(
        "pinned version is the present one",
        "server/plan.py",
        "pinned = definitions.versions.get((name, version))",
        "pinned = definitions.views.get(name)",
    ),
    Mutation(
        "hash seed",
        "server/plan.py",
        'mmh3.hash(f"{storage_name}:{feature}", signed=False)',
        'mmh3.hash(f"{storage_name}:{feature}", 1, signed=False)',
    ),
    Mutation(
        "time field",
        "server/plan.py",
        'return f"_ts:{storage_name}".encode()',
        'return f"_ts:{storage_name}_".encode()',
    ),
    Mutation(
        "service takes only a part",
        "server/registry.py",
        "features=tuple(f.name for f in projection.features),",
        "features=tuple(f.name for f in projection.features)[:1],",
    ),
    Mutation(
        "merged views keep the first's features",
        "server/plan.py",
        "more = tuple(f for f in projection.features if f not in known.features)",
        "more = ()",
    ),
    Mutation(
        "clashing names not refused",
        "server/plan.py",
        "    _refuse_clashes(projections, full_feature_names)\n",
        "",
    ),
    Mutation(
        "full names without the view",
        "server/plan.py",
        'return f"{projection.name}__{feature}" if full_feature_names else feature',
        "return feature",
    ),
    Mutation(
        "entity names not understood",
        "server/plan.py",
        "aliases = (entity,) if entity != name and name == column.name else ()",
        "aliases = ()",
    ),
    Mutation(
        "version metadata by the view's own name",
        "server/plan.py",
        "versions.setdefault(projection.alias or projection.view, version)",
        "versions.setdefault(projection.view, version)",
    ),
    Mutation(
        "null values PRESENT",
        "hotpath/splice.pyx",
        "statuses[f] = NULL_VALUE",
        "statuses[f] = PRESENT",
    ),
    Mutation(
        "missing rows PRESENT",
        "hotpath/splice.pyx",
        "        row_status = NOT_FOUND\n",
        "        row_status = PRESENT\n",
    ),
    Mutation(
        "values without a time PRESENT",
        "hotpath/splice.pyx",
        "row_status = OUTSIDE_MAX_AGE if view.expires else PRESENT",
        "row_status = PRESENT",
    ),
    Mutation(
        "old values sent",
        "hotpath/splice.pyx",
        "(row_status == OUTSIDE_MAX_AGE and not stale)",
        "(row_status == OUTSIDE_MAX_AGE and stale)",
    ),
    Mutation(
        "row times not rounded as Feast rounds them",
        "hotpath/splice.pyx",
        "        elif event.nanos != 0:\n",
        "        elif event.nanos < 0:\n",
    ),
)


def copy_checkout(to: Path) -> None:
    """Copies what git knows or would take, and what was built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=CHECKOUT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    built = [*CHECKOUT.glob("hotpath/*.so"), *CHECKOUT.glob("protos/hotfeast/serving/v1/*_pb2*")]
    names = {name for name in listed.split("\0") if name}
    names |= {str(path.relative_to(CHECKOUT)) for path in built}
    for name in sorted(names):
        if (CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, to / name)
    shutil.copytree(CHECKOUT / "build", to / "build", symlinks=True)


def build(copy: Path) -> None:
    """Builds the copy's extensions, those that have changed."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=copy, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def environment(copy: Path) -> dict[str, str]:
    """An environment in which the copy is what is imported."""
    return os.environ | {
        "PYTHONPATH": str(copy / "build" / "namespace"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOTFEAST_PARITY_REPOS": os.environ.get("HOTFEAST_PARITY_REPOS", REPOS),
        "HOTFEAST_PARITY_SEED": os.environ.get("HOTFEAST_PARITY_SEED", SEED),
        "HOTFEAST_PARITY_SHRINK": "0",
    }


def check_import(copy: Path) -> None:
    """Makes sure that the tests in the copy test the copy.

    Raises:
        SystemExit: They would test something else.
    """
    code = (
        "import hotfeast.hotpath.batch as b, hotfeast.hotpath as h, hotfeast.server.plan as p\n"
        "print(b.__file__, h.__file__, p.__file__, sep='\\n')"
    )
    files = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy, env=environment(copy), check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    outside = [f for f in files if not Path(f).is_relative_to(copy)]
    if outside:
        sys.exit(f"the copy would not be tested, but {outside[0]}")


def run_tests(copy: Path) -> tuple[bool, str]:
    """Runs the parity tests in a copy.

    Returns:
        Whether they pass, and the first test that fails, or the end of what was printed.
    """
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "tests/parity"],
        cwd=copy, env=environment(copy), capture_output=True, text=True,
    )  # fmt: skip
    for line in run.stdout.splitlines():
        if line.startswith("FAILED "):
            return False, line.removeprefix("FAILED ").split(" ")[0].rpartition("::")[2]
    return run.returncode == 0, (run.stdout + run.stderr)[-2000:]


def mutate(copy: Path, mutation: Mutation) -> None:
    """Puts a fault into a copy, and builds it.

    Raises:
        SystemExit: The text that it replaces is not there exactly once.
    """
    path = copy / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.name!r}: {mutation.file} has {mutation.old!r} {text.count(mutation.old)} "
            "times, not once; bring the mutation up to date"
        )
    path.write_text(text.replace(mutation.old, mutation.new))
    if path.suffix == ".pyx":
        build(copy)


def main(wanted: list[str]) -> int:
    """Tries the faults whose names have one of `wanted` in them, or all."""
    chosen = [m for m in MUTATIONS if not wanted or any(w in m.name for w in wanted)]
    width = max((len(m.name) for m in chosen), default=0)
    survivors = []
    with tempfile.TemporaryDirectory(prefix="hotfeast-mutations-") as folder:
        clean = Path(folder) / "clean"
        clean.mkdir()
        copy_checkout(clean)
        build(clean)
        check_import(clean)
        passed, tail = run_tests(clean)
        if not passed:
            print(f"the parity tests fail without any fault:\n{tail}")
            return 1
        print(f"{'without a fault':{width}}  passes", flush=True)
        for mutation in chosen:
            began = time.monotonic()
            copy = Path(folder) / "mutant"
            shutil.copytree(clean, copy, symlinks=True)
            mutate(copy, mutation)
            check_import(copy)
            passed, killer = run_tests(copy)
            shutil.rmtree(copy)
            if passed:
                survivors.append(mutation.name)
            verdict = "SURVIVES" if passed else f"found by {killer}"
            took = time.monotonic() - began
            print(f"{mutation.name:{width}}  {verdict}  ({took:.0f} s)", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
