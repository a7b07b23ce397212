"""The wheel, built from the sdist and installed where there is no checkout, is whole."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Run in the fresh environment: the client and the hot path, from the wheel alone.
PROBE = """
import importlib.util, sys
from importlib.metadata import requires, version
from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import FeatureRead, JoinKey, KeyRecipe, ReadDefinition, ViewRead
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.protos import PROTO_ROOT, push_pb2, serving_pb2, value_pb2
import hotfeast.hotpath.link

assert importlib.util.find_spec("feast") is None, "the base install has Feast"
for module in ("hotfeast.clients", "hotfeast.hotpath.splice", "hotfeast.serving.v1.serving_pb2"):
    path = sys.modules[module].__file__
    assert "site-packages" in path, path
assert (PROTO_ROOT / "hotfeast/serving/v1/serving.proto").is_file()
view = ViewRead("v", 0, b"_ts:v", 0, (FeatureRead("f", b"abcd"),))
plan = Plan(ReadDefinition("p", (JoinKey("id", 4),), (KeyRecipe((("id", 0),)),), (view,)))
request = serving_pb2.GetOnlineFeaturesRequest(feature_service="s")
request.entities["id"].val.add(int64_val=7)
batch = Batch(plan, Request(request.SerializeToString()))
reply = Reply()
reply.start(batch)
assert reply.feed(b"*2\\r\\n$2\\r\\n\\x20\\x05\\r\\n$2\\r\\n\\x08\\x01\\r\\n")
answer = serving_pb2.GetOnlineFeaturesResponse.FromString(build_response(batch, reply, 2, 0, True))
assert [v.values[0].int64_val for v in answer.results] == [7, 5], answer
try:
    FeatureClient("127.0.0.1:1", timeout=0.2).get_online_features("s", {"id": [1]})
except Exception as error:
    assert isinstance(error, HotfeastError), error
print("whole", version("hotfeast"))
"""


def _clean_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # What is whole does not hang on how well it is compiled, which takes minutes.
    return {**kept, "HOTFEAST_OPTIMIZE": "0"}


def _run(command: list[str | Path], cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_clean_environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the sdist, made from what a fresh clone would have."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    listed = _run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=checkout)
    for name in listed.splitlines():
        if (checkout / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkout / name, source / name)
    _run([sys.executable, "-m", "build", "--outdir", folder, source], cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_has_every_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.rsplit("/", 1)[0] for name in names if ".dist-info" not in name}
    assert folders == {
        "hotfeast/clients",
        "hotfeast/hotpath",
        "hotfeast/protos",
        "hotfeast/protos/hotfeast/serving/v1",
        "hotfeast/server",
        "hotfeast/server/diff",
        "hotfeast/server/lint",
        "hotfeast/server/monitoring",
        "hotfeast/server/monitoring/report",
        "hotfeast/server/monitoring/report/page",
        "hotfeast/server/security",
        "hotfeast/server/telemetry",
        "hotfeast/server/traffic",
        "hotfeast/server/windows",
        "hotfeast/serving/v1",
    }
    suffixes = {name.rsplit(".", 1)[1] for name in names if ".dist-info" not in name}
    assert suffixes == {"css", "html", "js", "lua", "py", "pyi", "pxd", "so", "proto", "typed"}
    for stage in ("batch", "link", "plan", "reply", "request", "splice", "values"):
        assert any(n.startswith(f"hotfeast/hotpath/{stage}.cpython") for n in names)
        assert f"hotfeast/hotpath/{stage}.pyi" in names
    for proto in ("value", "serving", "push", "traffic"):
        assert f"hotfeast/serving/v1/{proto}_pb2.py" in names
        assert f"hotfeast/serving/v1/{proto}_pb2_grpc.py" in names
        assert f"hotfeast/protos/hotfeast/serving/v1/{proto}.proto" in names


def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    _run([sys.executable, "-m", "venv", tmp_path / "env"], cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    _run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel],
        cwd=tmp_path,
    )
    assert "whole" in _run([python, "-c", PROBE], cwd=tmp_path)
    # Without the server's requirements the command says what to install.
    command = subprocess.run(
        [str(tmp_path / "env" / "bin" / "hotfeast"), "serve"],
        cwd=tmp_path,
        env=_clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert command.returncode != 0
    assert "hotfeast[server]" in command.stderr
