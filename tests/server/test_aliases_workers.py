"""Aliases of `hotfeast serve`: all workers, under load, and by the command line."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from aliased import Traffic, make_repo, request
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually, run_cli

from hotfeast.hotpath.request import Request
from hotfeast.hotpath.split import Split
from hotfeast.server.local_redis import LocalRedis

USERS = range(100)
# Enough that each of two workers has some, whatever the kernel does.
FRESH = 8


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_repo(tmp_path_factory.mktemp("workers"), redis_server, "aliased_workers")


def expected(shares: dict[str, float]) -> dict[int, str]:
    """Where each user's requests go, by the library alone."""
    split = Split("users", list(shares.items()), [("user_id", "user")])
    return {user: split.targets[split.choose(Request(request("users", user)))] for user in USERS}


class Load:
    """Clients that ask for one user after another.

    Attributes:
        failures: Why calls failed.
        seen: For each user the targets that answered, in order and without repetition.
        calls: How many there were.
    """

    def __init__(self, address: str) -> None:
        self.failures: list[str] = []
        self.seen: dict[int, list[str]] = {user: [] for user in USERS}
        self.calls = 0
        self._address = address
        self._done = threading.Event()
        # A user is one client's, so that its answers have an order.
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]

    def _run(self, number: int) -> None:
        mine = [user for user in USERS if user % len(self._threads) == number]
        with Traffic(self._address) as traffic:
            while not self._done.is_set():
                user = random.choice(mine)
                try:
                    target = traffic.read("users", user).target
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                self.calls += 1
                if self.seen[user][-1:] != [target]:
                    self.seen[user].append(target)

    def go_on(self, calls: int = 100) -> None:
        """Waits for more calls."""
        before = self.calls
        eventually(lambda: self.calls >= before + calls)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def fresh_clients(address: str) -> Iterator[list[Traffic]]:
    """Clients on connections of their own, which the kernel spreads over the workers."""
    clients = [Traffic(address) for _ in range(FRESH)]
    yield clients
    for client in clients:
        client.__exit__()


def in_force(clients: list[Traffic], shares: dict[str, float]) -> bool:
    """Whether every worker divides requests so."""
    wanted = expected(shares)
    return all(
        client.read("users", user).target == wanted[user]
        for client in clients
        for user in random.sample(USERS, 5)
    )


@pytest.mark.parametrize(("server", "workers"), [("native", 1), ("native", 2), ("grpcio", 2)])
def test_shares_change_under_load_without_an_error(
    store: FeatureStore, tmp_path: Path, server: str, workers: int
) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text("users: {users_v1: 100, users_v2: 0}\n")
    options = (
        *("--server", server, "--workers", str(workers), "--aliases", str(path)),
        *("--metrics", "127.0.0.1:0"),
    )
    with Process(Path(store.repo_path), *options) as process:
        page = process.wait_for("metrics on").split(" on ")[1]
        address = process.address()
        with Load(address) as load, fresh_clients(address) as clients:
            for share in (10, 50, 100):
                shares = {"users_v1": 100.0 - share, "users_v2": float(share)}
                clients[0].set("users", shares)
                # Where it was set it is in force already; the others follow.
                assert in_force(clients[:1], shares)
                eventually(lambda wanted=shares: in_force(clients, wanted))
                load.go_on()
            before = {"users_v1": 50.0, "users_v2": 50.0}
            clients[-1].roll_back("users")
            eventually(lambda: in_force(clients, before))
            load.go_on()
            calls = load.calls
        assert load.failures == []
        for user, seen in load.seen.items():
            # To the new version once, for good; back once, by the rollback.
            way = ["users_v1", "users_v2"]
            if expected(before)[user] == "users_v1":
                way.append("users_v1")
            left = iter(way)
            assert all(target in left for target in seen), (user, seen)
        if workers == 2 and server == "native":
            with fresh_clients(address) as clients:
                shadowed(address, clients)

        def answered() -> float:
            of = 'alias="users",code="OK",target="%s"'
            figures = scrape(page)
            return sum(
                figures.get(f"hotfeast_alias_requests_total{{{of % target}}}", 0)
                for target in ("users_v1", "users_v2")
            )

        eventually(lambda: answered() >= calls)
        assert scrape(page)["hotfeast_aliases_valid"] == 1
        assert process.stop() == 0


def shadowed(address: str, clients: list[Traffic]) -> None:
    """What the shadows of all workers find is told by any of them."""
    shares = {"users_v1": 100.0}
    clients[0].set("users", shares, shadow=("users_v2", 100))

    def looked_at() -> int:
        for client in clients:
            client.read("users", 3)
        found = clients[0].comparisons()
        return found[0].compared if found else 0

    # Each client is one worker's, and not all are the same one's.
    eventually(lambda: looked_at() > 3 * FRESH)
    for client in clients:
        (found,) = client.comparisons("users")
        assert found.features[0].different > 0
        assert found.failed == 0
    done = run_cli("traffic", "compare", "users", "--address", address)
    assert done.returncode == 1, done.stderr
    assert "users: users_v1, and users_v2 in its shadow" in done.stdout
    assert "user_id=3: 3.5, and 99.0" in done.stdout


def test_a_gateway_with_aliases_that_are_not_valid_does_not_start(
    store: FeatureStore, tmp_path: Path
) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text("users: {users_v3: 100}\n")
    done = run_cli(
        "serve", "--repo", str(store.repo_path), "--bind", "127.0.0.1:0", "--aliases", str(path)
    )
    assert done.returncode == 2
    assert "alias 'users': target 'users_v3' cannot be served: no feature serv" in done.stderr
