"""Aliases of a gateway in this process, behind either server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aliased import (
    ANSWERED_BY,
    Traffic,
    counts,
    dividing,
    make_repo,
    metadata_of,
    request,
)
from feast import FeatureService, FeatureStore
from figures import scrape
from processes import eventually
from served import Served, serve, stop
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.monitoring.collector import read_collected
from hotfeast.server.settings import (
    FeatureLogSettings,
    MonitorSettings,
    Settings,
    TrafficSettings,
)
from hotfeast.server.traffic.aliases import read_aliases
from hotfeast.serving.v1 import serving_pb2, value_pb2

Gate = tuple[Served, Traffic]
MANY = range(300)


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_repo(tmp_path_factory.mktemp("aliased"), redis_server, "aliased")


@pytest.fixture(scope="module", params=["native", "grpcio"])
def gate(
    request: pytest.FixtureRequest, store: FeatureStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gate]:
    path = tmp_path_factory.mktemp("aliases") / "aliases.yaml"
    settings = {"server": request.param, "metrics": ("127.0.0.1", 0)}
    with dividing(store, path, "users: {users_v1: 90, users_v2: 10}\n", **settings) as gate:
        yield gate


@pytest.fixture
def users(gate: Gate) -> Traffic:
    """The alias `users`, of which a tenth is on the second version."""
    gate[1].set("users", {"users_v1": 90, "users_v2": 10})
    return gate[1]


def path_of(gate: Gate) -> Path:
    traffic = gate[0].settings.traffic
    assert traffic is not None
    return traffic.aliases


def failure(call: Any, *arguments: Any, **more: Any) -> Any:
    with pytest.raises(grpc.RpcError) as failed:
        call(*arguments, **more)
    return failed.value


def test_who_is_on_the_new_version_stays_while_its_share_grows(users: Traffic) -> None:
    before = users.sides("users", MANY)
    assert 0.02 < counts(before)["users_v2"] / len(MANY) < 0.2
    for share in (20, 60, 100):
        users.set("users", {"users_v1": 100 - share, "users_v2": share})
        after = users.sides("users", MANY)
        assert users.sides("users", MANY) == after
        moved = {user for user in MANY if before[user] != after[user]}
        assert {after[user] for user in moved} == {"users_v2"}
        before = after
    assert set(before.values()) == {"users_v2"}


def test_answers_are_those_of_the_target(gate: Gate, users: Traffic) -> None:
    for user in MANY:
        read = users.read("users", user)
        named = users.read(read.target, user)
        assert (read.metadata, named.target) == ([], "")
        read.answer.metadata.ClearField("feature_service")
        assert read.answer == named.answer


def test_one_version_answers_all_rows_by_the_first(users: Traffic) -> None:
    sides = users.sides("users", MANY)
    on_new = [user for user, side in sides.items() if side == "users_v2"]
    on_old = [user for user, side in sides.items() if side == "users_v1"]
    for first, others in ((on_new[0], on_old), (on_old[0], on_new)):
        read = users.read("users", first, *others)
        assert read.target == sides[first]
        assert len(read.answer.results[0].values) == 1 + len(others)


def test_entities_under_their_deprecated_name_and_in_32_bits_are_the_same(users: Traffic) -> None:
    """The name of the entity, not of its join key."""
    narrow = {
        user: serving_pb2.GetOnlineFeaturesRequest(
            feature_service="users",
            entities={"user": value_pb2.RepeatedValue(val=[value_pb2.Value(int32_val=user)])},
        ).SerializeToString()
        for user in MANY
    }
    sides = users.sides("users", MANY)
    assert {user: users.send(data).target for user, data in narrow.items()} == sides


def test_full_names_and_lists_of_features(users: Traffic) -> None:
    message = serving_pb2.GetOnlineFeaturesRequest.FromString(request("users", 1))
    message.full_feature_names = True
    read = users.send(message.SerializeToString())
    number = read.target[-1]
    assert f"stats_{number}__spend" in read.answer.metadata.feature_names.val
    message.features.val.append("stats_1:spend")
    assert users.send(message.SerializeToString()).target == ""


def test_a_request_that_the_target_refuses_says_which_it_was(users: Traffic) -> None:
    sides = users.sides("users", MANY)
    for user in MANY[:20]:
        failed = failure(users.send, request("users", user, beside="nothing"))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "'nothing' is no join key" in failed.details()
        assert metadata_of(failed) == [(ANSWERED_BY, sides[user])]


def test_large_answers_say_it_too(users: Traffic) -> None:
    """Those that are sent in pieces while they are written, and those that are made in a thread."""
    for rows in (1_000, 8_000, 30_000):
        read = users.read("users", *range(rows))
        assert read.target in ("users_v1", "users_v2")
        assert len(read.answer.results[1].values) == rows


def test_an_alias_may_have_the_name_of_a_service(users: Traffic) -> None:
    users.set("users_v1", {"users_v1": 50, "users_v2": 50})
    try:
        sides = users.sides("users_v1", MANY)
        assert set(sides.values()) == {"users_v1", "users_v2"}
        # Targets are services, not aliases.
        users.set("users", {"users_v1": 100})
        assert users.read("users", 1).target == "users_v1"
    finally:
        users.remove("users_v1")
    assert users.read("users_v1", 1).target == ""
    assert failure(users.remove, "users_v1").code() is grpc.StatusCode.NOT_FOUND


def test_changes_say_who_made_them(gate: Gate, users: Traffic) -> None:
    at = users.set(
        "users", {"users_v1": 80, "users_v2": 20}, caller="ann", reason="a step"
    ).revision
    change = users.changes("users")[0]
    assert (change.revision, change.who, change.reason) == (at, "ann", "a step")
    assert change.peer.startswith("ipv4:127.0.0.1:")
    assert [t.share for t in change.before.targets] == [90, 10]
    assert [t.share for t in change.after.targets] == [80, 20]
    assert users.roll_back("users", expected_revision=at).targets[1].share == 10


@pytest.mark.parametrize(
    ("targets", "more", "code", "words"),
    [
        ({"users_v1": 90}, {}, "INVALID_ARGUMENT", "add up to 90, not to 100"),
        ({"users_v1": 50, "user_v2": 50}, {}, "INVALID_ARGUMENT", "did you mean 'users_v2'?"),
        ({"users": 100}, {}, "INVALID_ARGUMENT", "target 'users' cannot be served"),
        (
            {"users_v1": 50, "products": 50},
            {},
            "INVALID_ARGUMENT",
            "no request suits all of its targets: 'users_v1' needs the join keys 'user_id', "
            "'products' needs 'sku'",
        ),
        ({"users_v1": 100}, {"sticky_by": ["sku"]}, "INVALID_ARGUMENT", "use 'user_id'"),
        ({"users_v1": 100}, {"shadow": ("gone", 5)}, "INVALID_ARGUMENT", "target 'gone' cannot"),
        ({"users_v1": 100}, {"expected": 1000}, "ABORTED", "not 1000"),
    ],
)
def test_changes_that_are_refused_change_nothing(
    users: Traffic, targets: dict[str, float], more: dict[str, Any], code: str, words: str
) -> None:
    before = users.aliases()
    failed = failure(users.set, "users", targets, **more)
    assert failed.code().name == code
    assert "'users'" in failed.details()
    assert words in failed.details()
    assert users.aliases() == before


def test_an_edit_of_the_file_goes_live(gate: Gate, users: Traffic) -> None:
    path_of(gate).write_text("users: {users_v2: 100}\n")
    eventually(lambda: set(users.sides("users", range(20)).values()) == {"users_v2"})
    assert users.changes("users")[0].action == "file edited"


def test_a_file_that_is_not_valid_leaves_the_aliases_as_they_are(
    gate: Gate, users: Traffic
) -> None:
    page = gate[0].gateway.metrics_page
    assert page is not None
    before = users.sides("users", MANY)
    path_of(gate).write_text("users: {users_v2: 99}\n")
    eventually(lambda: "add up to 99" in users.aliases().error)
    assert scrape(page.url)["hotfeast_aliases_valid"] == 0
    assert users.sides("users", MANY) == before
    path_of(gate).write_text("users: {users_v2: 100}\n")
    eventually(lambda: users.aliases().error == "")
    assert scrape(page.url)["hotfeast_aliases_valid"] == 1
    assert scrape(page.url)['hotfeast_alias_share{alias="users",target="users_v1"}'] == 0


def test_every_target_has_its_figures(gate: Gate, users: Traffic) -> None:
    page = gate[0].gateway.metrics_page
    assert page is not None
    users.set("counted", {"users_v1": 50, "users_v2": 50})
    sides = {user: users.read("counted", user, 5).target for user in range(40)}
    refused = range(10)
    for user in refused:
        failure(users.send, request("counted", user, beside="nothing"))

    def counted(name: str, **labels: str) -> float:
        said = ",".join(f'{k}="{v}"' for k, v in sorted({"alias": "counted", **labels}.items()))
        return scrape(page.url).get(f"hotfeast_alias_{name}{{{said}}}", 0)

    for target, good in counts(sides).items():
        bad = sum(sides[user] == target for user in refused)
        codes = {"OK": good, "INVALID_ARGUMENT": bad}
        for code, calls in codes.items():
            eventually(
                lambda c=code, n=calls, t=target: counted("requests_total", target=t, code=c) == n
            )
        assert counted("rows_total", target=target) == 2 * good
        assert counted("request_seconds_count", target=target) == good + bad
        assert counted("share", target=target) == 50


def test_statuses_of_a_sample_are_counted(gate: Gate, users: Traffic) -> None:
    page = gate[0].gateway.metrics_page
    assert page is not None
    users.set("sampled", {"users_v2": 100})
    # One in a hundred on average, and one of the first 199 for certain.
    for _ in range(200):
        users.read("sampled", 1, 999)

    def values(status: str) -> float:
        labels = f'alias="sampled",status="{status}",target="users_v2"'
        return scrape(page.url).get(f"hotfeast_alias_values_total{{{labels}}}", 0)

    eventually(lambda: values("PRESENT") > 0)
    # Of user 1 the city is null, and user 999 is not there.
    assert values("PRESENT") == values("NULL_VALUE") == values("NOT_FOUND") / 2


def test_a_target_that_vanishes_fails_clearly_and_alone(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = make_repo(tmp_path / "repo", redis_server, "vanishing")
    path = tmp_path / "aliases.yaml"
    text = "users: {users_v1: 50, users_v2: 50}\n"
    with dividing(store, path, text) as (served, traffic):
        before = traffic.sides("users", range(30))
        store.delete_feature_service("users_v2")
        assert served.gateway.registry.look()
        for user, side in before.items():
            if side == "users_v1":
                assert traffic.read("users", user).target == side
                continue
            failed = failure(traffic.read, "users", user)
            assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert failed.details() == (
                "alias 'users': its target 'users_v2' cannot be served: no feature service "
                "'users_v2'; did you mean 'users_v1'?"
            )
            assert dict(metadata_of(failed))[ANSWERED_BY] == "users_v2"
        # What was valid once is no reason not to start again; what is new is.
        Gateway(served.settings).stop(drain=0)
        path.write_text("users: {users_v1: 40, users_v2: 60}\n")
        with pytest.raises(StartFailure, match="alias 'users': target 'users_v2' cannot be served"):
            Gateway(served.settings)
        eventually(lambda: "target 'users_v2'" in traffic.aliases().error)
        # It is applied after all.
        view = store.get_feature_view("stats_2")
        store.apply(FeatureService(name="users_v2", features=[view]))
        assert served.gateway.registry.look()
        eventually(lambda: traffic.aliases().error == "")
        assert {*traffic.sides("users", range(30)).values()} == {"users_v1", "users_v2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "it cannot be read"),
        (
            "users: {users_v1: 1}",
            "alias 'users': the shares of its targets add up to 1, not to 100",
        ),
        (
            "users: {nobody: 100}",
            "alias 'users': target 'nobody' cannot be served: no feature serv",
        ),
        ("users: {stats_9@v1: 100}", "no feature view 'stats_9'; did you mean 'stats_"),
        ("users: {stats_1@v1: 100}", "the rows of versions are not kept apart"),
    ],
)
def test_a_gateway_does_not_start_with_aliases_that_are_not_valid(
    store: FeatureStore, tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "aliases.yaml"
    if text is not None:
        path.write_text(text)
    settings = Settings(repo=Path(store.repo_path), port=0, traffic=TrafficSettings(path))
    with pytest.raises(StartFailure) as failed:
        Gateway(settings)
    assert str(failed.value).startswith(f"{path}: ")
    assert words in str(failed.value)


def test_what_watches_and_logs_sees_the_version_that_answered(
    store: FeatureStore, tmp_path: Path
) -> None:
    monitor = MonitorSettings(tmp_path / "seen", every=1)
    log = FeatureLogSettings(tmp_path / "log", 1.0, 2**20, 300.0)
    settings = {"monitor": monitor, "feature_log": log}
    text = "users: {users_v1: 50, users_v2: 50}\n"
    with dividing(store, tmp_path / "aliases.yaml", text, **settings) as (_, traffic):
        metadata = (("x-caller", "ranking-model"),)
        by_side = counts(
            {user: traffic.read("users", user, metadata=metadata).target for user in range(20)}
        )
        assert len(by_side) == 2
    logged = {path.parent.name for path in (tmp_path / "log").rglob("*.parquet")}
    assert logged == set(by_side)
    readers = read_collected(tmp_path / "seen").store.readers()
    assert {(r.view, r.service, r.caller): of.observations for r, of in readers.items()} == {
        (f"stats_{side[-1]}", side, "ranking-model"): count for side, count in by_side.items()
    }


def test_the_command_line(gate: Gate, users: Traffic) -> None:
    path = path_of(gate)

    def traffic(command: str, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["traffic", command, *arguments, "--address", address])

    address = gate[0].address

    done = traffic(
        "set", "extra", "users_v1=75", "users_v2=25", "--sticky-by", "user_id",
        "--shadow", "users_v2=2.5%", "--who", "ann", "--reason", "a trial",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout == (
        "extra is at revision 1: users_v1 75%, users_v2 25%, shadow users_v2 2.5%\n"
    )
    # What is not said stays.
    assert traffic("set", "extra", "users_v1=50", "users_v2=50").exit_code == 0
    found = read_aliases(path.read_text())["extra"]
    assert (found.sticky_by, found.shadow and found.shadow.share) == (("user_id",), 2.5)
    assert traffic("set", "extra", "users_v1=100", "--no-shadow").exit_code == 0
    done = traffic("list")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines() if "extra" in line] == [
        ["extra", "3", "users_v1", "100%", "user_id"]
    ]
    done = traffic("rollback", "extra", "--to", "1")
    assert "extra is at revision 4: users_v1 75%" in done.stdout
    done = traffic("log", "extra")
    assert [line.split()[2] for line in done.stdout.splitlines()[1:] if "extra" in line] == [
        "4", "3", "2", "1"
    ]  # fmt: skip
    assert "ann" in done.stdout
    assert "a trial" in done.stdout
    done = traffic("set", "extra", "users_v1=50", "--revision", "1")
    assert done.exit_code == 2
    assert done.stderr == (
        "hotfeast: INVALID_ARGUMENT: alias 'extra': the shares of its targets add up to 50, not to "
        "100\n"
    )
    done = traffic("set", "extra", "users_v1=100", "--revision", "1")
    assert done.exit_code == 2
    assert done.stderr.startswith("hotfeast: ABORTED: alias 'extra' is at revision 4, not 1")
    done = traffic("set", "extra", "users_v1")
    assert done.exit_code == 2
    assert "SERVICE=PERCENT" in done.stderr
    assert traffic("remove", "extra", "--reason", "over").exit_code == 0
    assert "extra" not in read_aliases(path.read_text())
    done = CliRunner().invoke(app, ["traffic", "list", "--address", "127.0.0.1:1"])
    assert done.exit_code == 2
    assert done.stderr.startswith("hotfeast: UNAVAILABLE: ")


def test_without_a_file_the_methods_say_so(store: FeatureStore) -> None:
    served = serve(store, Settings(repo=Path(store.repo_path)))
    try:
        with Traffic(served.address) as traffic:
            failed = failure(traffic.aliases)
            assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "--aliases FILE" in failed.details()
            assert traffic.read("users_v1", 1).target == ""
    finally:
        stop(served)
