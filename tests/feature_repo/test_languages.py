"""The clients in other languages: built, run against a gateway, and held against the Python client.

HOTFEAST_REQUIRE_LANGUAGES names those that have to run. Of the others Node is tried where it is.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
import trustme
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from prepare import LAST_SNAPSHOT
from tls import TlsFront

from hotfeast.clients import FeatureClient, NotFound, OnlineFeatures
from hotfeast.server.gateway import Gateway
from hotfeast.server.local_redis import LocalRedis

EXAMPLES = Path(__file__).resolve().parents[2] / "clients" / "examples"
REQUIRED = os.environ.get("HOTFEAST_REQUIRE_LANGUAGES", "").split()


@dataclass(frozen=True)
class Example:
    """How a client is built and run.

    Attributes:
        needs: Programs that have to be there.
        build: Commands, one after another.
        run: The client.
        late: What it calls DEADLINE_EXCEEDED.
    """

    needs: tuple[str, ...]
    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    late: str


BUILT = ("build/features",)
LANGUAGES = {
    "node": Example(
        needs=("node", "npm"),
        build=(("npm", "ci", "--prefer-offline"),),
        run=("node", "main.js"),
        late="DEADLINE_EXCEEDED",
    ),
    "go": Example(
        needs=("make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        build=(("make",),),
        run=BUILT,
        late="DeadlineExceeded",
    ),
    "java": Example(
        needs=("make", "javac", "protoc", "grpc_java_plugin"),
        build=(("make",),),
        run=BUILT,
        late="DEADLINE_EXCEEDED",
    ),
    "cpp": Example(
        needs=("cmake", "c++", "protoc", "grpc_cpp_plugin"),
        build=(("cmake", "-B", "build"), ("cmake", "--build", "build")),
        run=BUILT,
        late="4",
    ),
}

SERVICE = "product_ranking"
PAIRS = {"user_id": [1453, 10, 999_999], "product_id": [1110572, 1082185, 999_999_999]}
REQUEST: dict[str, list[Any]] = {
    "cart_value_usd": [42.5, 42.5, 12.0],
    "cart_items_count": [9, 9, 0],
    "requested_at": [LAST_SNAPSHOT] * 3,
    "promotion_min_cart_usd": [40.0] * 3,
    "promotion_min_baskets_30d": [4] * 3,
}
PUSHED = {"user_id": 2_500_002, "product_id": 1110572}


@pytest.fixture(scope="module")
def gateway(latest: Callable[..., Any]) -> Iterator[tuple[Gateway, LocalRedis]]:
    with latest(pd.DataFrame(PAIRS)) as serving:
        yield serving


@pytest.fixture(scope="module", params=list(LANGUAGES))
def example(request: pytest.FixtureRequest) -> tuple[Example, Path]:
    """An example, built, and its folder."""
    language = request.param
    made = LANGUAGES[language]
    if language != "node" and language not in REQUIRED:
        pytest.skip(f"{language} is run by `make test-languages`")
    if missing := [name for name in made.needs if shutil.which(name) is None]:
        words = f"{language} needs {', '.join(missing)}"
        if language in REQUIRED:
            pytest.fail(words)
        pytest.skip(words)
    folder = EXAMPLES / language
    for command in made.build:
        built = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=500, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr
    return made, folder


def run(example: tuple[Example, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    made, folder = example
    return subprocess.run(
        [*made.run, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def printed(output: str) -> list[tuple[str, list[list[str]]]]:
    """The lines of features: the name, and for each row value and status."""
    lines = re.findall(r"^  (\w+) +(.*)$", output, re.M)
    return [(name, [cell.rsplit(" ", 1) for cell in cells.split(" | ")]) for name, cells in lines]


def assert_printed(output: list[tuple[str, list[list[str]]]], answer: OnlineFeatures) -> None:
    """That all of the answer is there, and nothing else: each value and its status. Join keys are
    sent in a map, which has no order, and come back as they were sent."""
    keys = len(PAIRS)
    names = [name for name, _ in output]
    assert sorted(names[:keys]) == sorted(answer.names[:keys])
    assert names[keys:] == answer.names[keys:]
    values, statuses = answer.to_dict(), answer.statuses
    for name, cells in output:
        assert [status for _, status in cells] == statuses[name], name
        for (text, _), value in zip(cells, values[name], strict=True):
            if isinstance(value, float):
                assert float(text) == value, name
            elif isinstance(value, bool):
                assert text == str(value).lower(), name
            else:
                assert text == ("-" if value is None else str(value)), name


def test_example(example: tuple[Example, Path], gateway: tuple[Gateway, LocalRedis]) -> None:
    """It prints what the Python client reads, pushes a row and is told what does not exist."""
    serving, store = gateway
    address = f"127.0.0.1:{serving.port}"
    forget_pushed(store)
    done = run(example, address)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = printed(done.stdout)
    with FeatureClient(address) as client:
        asked = client.get_online_features(SERVICE, PAIRS, request=REQUEST)
        assert {s for statuses in asked.statuses.values() for s in statuses} == {
            "PRESENT", "NULL_VALUE", "NOT_FOUND",
        }  # fmt: skip
        assert_printed(lines[: len(asked.names)], asked)
        pushed = client.get_online_features(
            ["user_product_interactions:pair_revenue_usd_90d"],
            {name: [key] for name, key in PUSHED.items()},
        )
        assert pushed.to_dict()["pair_revenue_usd_90d"] == [20.25]
        assert_printed(lines[len(asked.names) :], pushed)
        with pytest.raises(NotFound) as missing:
            client.get_online_features("product_rankin", PAIRS, request=REQUEST)
    assert "pushed: ROW_OUTCOME_WRITTEN\n" in done.stdout
    assert f"not found: {missing.value.message}\n" in done.stdout


def forget_pushed(store: LocalRedis) -> None:
    """Removes what an example before this one has pushed."""
    names = sorted(PUSHED)
    key = EntityKey(
        join_keys=names, entity_values=[Value(int64_val=PUSHED[name]) for name in names]
    )
    with redis.Redis(port=store.port) as connection:
        connection.delete(_redis_key("hotfeast_demo", key, entity_key_serialization_version=3))


def test_example_over_tls(
    example: tuple[Example, Path], gateway: tuple[Gateway, LocalRedis], tmp_path: Path
) -> None:
    """With the authority's certificate it says the same, and without it nothing."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    with closing(TlsFront(gateway[0].port, certificate)) as front:
        address = f"localhost:{front.port}"
        encrypted = run(example, address, str(tmp_path / "ca.pem"))
        refused = run(example, address)
    assert encrypted.returncode == 0, encrypted.stdout + encrypted.stderr
    plain = run(example, f"127.0.0.1:{gateway[0].port}")
    assert sorted(encrypted.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert refused.returncode == 1
    assert printed(refused.stdout) == []


def test_example_gives_up_at_its_deadline(example: tuple[Example, Path]) -> None:
    """Of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(example, f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{example[0].late}: "), done.stderr
