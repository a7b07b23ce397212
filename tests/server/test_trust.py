"""With `--transforms-from=repo`, nothing that a registry carries is run."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import market
import pytest
from feast import FeatureService, FeatureStore
from feast.protos.feast.core.Registry_pb2 import Registry
from grpc import StatusCode
from processes import run_cli
from rich.console import Console
from served import Served, serve, stop

from hotfeast.clients import HotfeastError
from hotfeast.server.cli_plan import show_plan
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.repo_files import load_repo_views

FILE = """
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

FACTOR = 2

amount = RequestSource(name="amount", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(
    sources=[amount], schema=[Field(name="{name}_out", dtype=Float64)], mode="python"
)
def {name}(inputs):
    return {{"{name}_out": [value * 2 for value in inputs["amount"]]}}
"""


class Place:
    """A repository with two files, each of them with an on-demand view."""

    def __init__(self, folder: Path, address: str) -> None:
        self.repo = folder
        self.marker = folder / "was run"
        market.write_repository(folder, "trust", address)
        # Modules stay imported, so each test has names of its own.
        self.names = [f"{name}_{uuid4().hex[:8]}" for name in ("first", "second")]
        for name in self.names:
            (folder / f"file_{name}.py").write_text(FILE.format(name=name))
        self.store = FeatureStore(repo_path=str(folder))
        views = load_repo_views(folder)
        assert sorted(views) == sorted(self.names)
        self.store.apply([*views.values(), market.user, market.user_stats])

    def tamper(self, change: Callable[[Any], None]) -> None:
        """Changes the registry's definition of the first view."""
        path = self.repo / "registry.db"
        registry = Registry.FromString(path.read_bytes())
        for view in registry.on_demand_feature_views:
            if view.spec.name == self.names[0]:
                change(view.spec)
        path.write_bytes(registry.SerializeToString())

    def serve(self, transforms_from: str) -> Served:
        return serve(self.store, replace(Settings(repo=self.repo), transforms_from=transforms_from))

    def ask(self, served: Served, name: str) -> Any:
        answer = served.client.get_online_features(
            [f"{name}:{name}_out"], {}, request_context={"amount": [1.5]}
        )
        return answer.to_dict()[f"{name}_out"]


@pytest.fixture
def place(redis_server: LocalRedis, tmp_path: Path) -> Place:
    return Place(tmp_path, redis_server.address)


class Touch:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def evil_source(place: Place) -> Callable[[Any], None]:
    def change(spec: Any) -> None:
        function = spec.feature_transformation.user_defined_function
        function.body_text = (
            f"from pathlib import Path\nPath({str(place.marker)!r}).touch()\n" + function.body_text
        )

    return change


def evil_pickle(place: Place) -> Callable[[Any], None]:
    def change(spec: Any) -> None:
        function = spec.feature_transformation.user_defined_function
        # So that Feast takes the pickle and not the source.
        function.body_text = "raise ImportError"
        function.body = pickle.dumps(Touch(place.marker))

    return change


@pytest.mark.parametrize("evil", [evil_source, evil_pickle])
def test_what_the_registry_carries_is_run_from_registry_and_not_from_repo(
    place: Place, evil: Callable[[Place], Callable[[Any], None]]
) -> None:
    place.tamper(evil(place))
    served = place.serve("repo")
    try:
        with pytest.raises(HotfeastError, match=f"'{place.names[0]}' has another function") as no:
            place.ask(served, place.names[0])
        assert no.value.code is StatusCode.FAILED_PRECONDITION
        assert place.ask(served, place.names[1]) == [3.0]
    finally:
        stop(served)
    assert not place.marker.exists()
    stop(place.serve("registry"))
    assert place.marker.exists()


def test_the_pickle_of_an_unchanged_view_is_not_loaded_either(place: Place) -> None:
    def change(spec: Any) -> None:
        spec.feature_transformation.user_defined_function.body = pickle.dumps(Touch(place.marker))

    place.tamper(change)
    served = place.serve("repo")
    try:
        assert [place.ask(served, name) for name in place.names] == [[3.0], [3.0]]
    finally:
        stop(served)
    assert not place.marker.exists()


def _other_mode(spec: Any) -> None:
    spec.mode = "pandas"


def _singleton(spec: Any) -> None:
    spec.singleton = True


def _other_type(spec: Any) -> None:
    spec.features[0].value_type = 2


def _other_request_data(spec: Any) -> None:
    spec.sources["amount"].request_data_source.request_data_options.schema[0].name = "other"


def _more_sources(spec: Any) -> None:
    projection = spec.sources["user_stats"].feature_view_projection
    projection.feature_view_name = "user_stats"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_other_mode, "mode"),
        (_singleton, "singleton"),
        (_other_type, "schema"),
        (_other_request_data, "request data"),
        (_more_sources, "set of sources"),
    ],
)
def test_a_view_that_the_files_define_otherwise_is_refused(
    place: Place, change: Callable[[Any], None], what: str
) -> None:
    place.tamper(change)
    served = place.serve("repo")
    try:
        with pytest.raises(HotfeastError, match=f"'{place.names[0]}' has another {what} in"):
            place.ask(served, place.names[0])
        assert place.ask(served, place.names[1]) == [3.0]
    finally:
        stop(served)


def test_a_view_that_the_files_do_not_define_is_refused(place: Place) -> None:
    (place.repo / f"file_{place.names[0]}.py").unlink()
    served = place.serve("repo")
    try:
        with pytest.raises(HotfeastError, match=f"'{place.names[0]}' is in the registry and not"):
            place.ask(served, place.names[0])
        assert place.ask(served, place.names[1]) == [3.0]
    finally:
        stop(served)


def test_files_that_cannot_be_imported_stop_the_start(place: Place) -> None:
    (place.repo / f"file_{uuid4().hex}.py").write_text("import no_such_module")
    with pytest.raises(StartFailure, match=r"repo: the files of .*'no_such_module'"):
        place.serve("repo")
    stop(place.serve("registry"))


def test_plan_command_takes_functions_from_the_repo(place: Place) -> None:
    services = [
        FeatureService(
            name=f"serve_{name}", features=[place.store.get_on_demand_feature_view(name)]
        )
        for name in place.names
    ]
    place.store.apply(services)
    place.tamper(evil_source(place))
    changed, same = (f"serve_{name}" for name in place.names)
    process = run_cli("plan", same, "--repo", str(place.repo), "--transforms-from", "repo")
    assert process.returncode == 0, process.stderr
    with pytest.raises(StartFailure, match="has another function"):
        show_plan(place.repo, changed, Console(quiet=True), from_repo=True)
    assert not place.marker.exists()
    show_plan(place.repo, changed, Console(quiet=True))
    assert place.marker.exists()
