"""What a repository's files define, and the registry that applying them would leave.

Nothing is applied: Feast's own code registers the definitions in a registry of a temporary folder,
which begins with what the real one holds. Neither that one, nor a source, nor an online store is
written.
"""

import importlib
import linecache
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import (
    DUMMY_ENTITY_NAME,
    BaseFeatureView,
    DataSource,
    Entity,
    FeatureService,
    FeatureStore,
    LabelView,
    Project,
    Registry,
    RegistryConfig,
    RegistryMessage,
    extract_objects_for_apply_delete,
    parse_repo,
)
from hotfeast.server.places import Place, Places, noted_places
from hotfeast.server.registry_source import KINDS, Stored, of_project
from hotfeast.server.repo_files import imports_from

_VIEW_CLASSES = (BaseFeatureView, LabelView)
# By name, what was imported of repositories' files: they are imported anew each time.
_imported: dict[str, ModuleType] = {}


@dataclass(frozen=True, slots=True)
class RepoDefinitions:
    """What the files of a repository define.

    Attributes:
        contents: Feast's objects, as `feast apply` finds them.
        places: Where they are written.
    """

    contents: Any
    places: Places

    @property
    def views(self) -> dict[str, Any]:
        """Feast's objects of views of all kinds, by name."""
        kinds = (
            self.contents.feature_views,
            self.contents.stream_feature_views,
            self.contents.on_demand_feature_views,
            self.contents.label_views,
        )
        return {view.name: view for view in chain(*kinds)}

    @property
    def services(self) -> dict[str, Any]:
        """Feast's objects of feature services, by name."""
        return {service.name: service for service in self.contents.feature_services}

    @property
    def entities(self) -> dict[str, Any]:
        """Feast's objects of entities, by name, without the one that stands for none."""
        return {e.name: e for e in self.contents.entities if e.name != DUMMY_ENTITY_NAME}

    @property
    def sources(self) -> dict[str, Any]:
        """Feast's objects of data sources, by name."""
        requests = (
            source
            for view in self.contents.on_demand_feature_views
            for source in view.source_request_sources.values()
        )
        return {source.name: source for source in chain(self.contents.data_sources, requests)}

    def place_of(self, thing: Any, field: str = "") -> Place | None:
        """Where a view, service, entity or data source is written, or one of its fields.

        Args:
            thing: Feast's object; None for one that the files do not have.
            field: Name of a field; its owner's place is given where its own is not known.
        """
        if field and not isinstance(thing, FeatureService):
            for fields in ("schema", "features"):
                for each in getattr(thing, fields, None) or ():
                    if each.name == field and (place := self.places.of(each)) is not None:
                        return place
        return self.places.of(thing)


def load_repo_definitions(repo: Path) -> RepoDefinitions:
    """Imports a repository's files, as `feast apply` does.

    Raises:
        StartFailure: A file cannot be imported.
    """
    for name in _imported:
        sys.modules.pop(name, None)
    _imported.clear()
    # Feast keeps the text of functions, which Python remembers by the file's name.
    linecache.clearcache()
    before = set(sys.modules)
    folder = repo.resolve()
    with imports_from(repo), _no_bytecode(), noted_places(folder) as places:
        try:
            contents = parse_repo(folder)
        except Exception as error:
            raise StartFailure(
                f"the files of {repo} cannot be imported ({type(error).__name__}: {error})"
            ) from error
        finally:
            for name in set(sys.modules) - before:
                path = getattr(sys.modules[name], "__file__", None)
                if path is not None and Path(path).is_relative_to(folder):
                    _imported[name] = sys.modules[name]
    return RepoDefinitions(contents, places)


def registered(store: FeatureStore, defined: RepoDefinitions, before: Stored | None) -> Stored:
    """The registry as applying definitions would leave it.

    Types and features that definitions leave open are inferred, as when they are applied, which
    reads the schemas of their sources and completes the objects in `defined`.

    Args:
        store: The repository. Its registry is not looked at.
        defined: What its files define.
        before: What its registry has, with versions; None for an empty one.

    Raises:
        StartFailure: Feast would refuse to apply the definitions.
    """
    projects = [project.name for project in defined.contents.projects]
    if projects not in ([], [store.project]):
        raise StartFailure(
            f"the files define the project {', '.join(projects)}; feature_store.yaml says "
            f"{store.project}: define that one, or none"
        )
    with tempfile.TemporaryDirectory(prefix="hotfeast-") as folder:
        path = Path(folder) / "registry.db"
        if before is not None:
            path.write_bytes(_message(store.project, before).SerializeToString())
        shadow = _shadow(store, path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _register(shadow, defined.contents)
        except Exception as error:
            raise StartFailure(
                f"Feast would not apply the definitions ({type(error).__name__}: {error})"
            ) from error
        return of_project(shadow.registry.cached_registry_proto, store.project, versioned=True)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Nothing is left in the repository by importing it, and a file that was changed within a
    second is not taken for the one before."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _message(project: str, stored: Stored) -> Any:
    """What was read of a registry as a registry."""
    registry = RegistryMessage(registry_schema_version="1", version_id="hotfeast")
    registry.projects.append(Project(name=project).to_proto())
    for kind in KINDS:
        things = getattr(registry, kind)
        for message in stored.messages[kind]:
            # A registry server does not say whose a definition is.
            things.add().MergeFromString(message)
            things[-1].spec.project = project
    for version in stored.versions or ():
        registry.feature_view_version_history.records.add(
            feature_view_name=version.view,
            version_number=version.number,
            feature_view_type=version.kind.removesuffix("s"),
            feature_view_proto=version.message,
            project_id=project,
        )
    return registry


def _shadow(store: FeatureStore, path: Path) -> Any:
    """A store with the repository's settings and a registry of its own."""
    shadow = FeatureStore(repo_path=str(store.repo_path), config=store.config)
    versioned = getattr(store.config.registry, "enable_online_feature_view_versioning", False)
    options = {"enable_online_feature_view_versioning": True} if versioned else {}
    config = RegistryConfig(registry_type="file", path=str(path), cache_ttl_seconds=0, **options)
    shadow._registry = Registry(store.project, config, None)
    return shadow


def _register(store: Any, contents: Any) -> None:
    """What `feast apply` does to a registry, and nothing of what it does to online stores."""
    registry, project = store.registry, store.project
    if not contents.projects:
        contents.projects.append(Project(name=project))
    # First as `feast plan` does it, for all objects; which of them change is seen after.
    views = (
        contents.feature_views,
        contents.on_demand_feature_views,
        contents.stream_feature_views,
    )
    store._validate_all_feature_views(*views, contents.label_views)
    store._make_inferences(
        contents.data_sources,
        contents.entities,
        *views,
        contents.feature_services,
        contents.label_views,
    )
    to_apply, to_delete, _, _ = extract_objects_for_apply_delete(project, registry, contents)
    # Each kind before those that refer to it; sets have no order of their own.
    steps: tuple[tuple[Any, Any, Any], ...] = (
        (Project, registry.apply_project, None),
        (DataSource, registry.apply_data_source, registry.delete_data_source),
        (_VIEW_CLASSES, registry.apply_feature_view, registry.delete_feature_view),
        (Entity, registry.apply_entity, registry.delete_entity),
        (FeatureService, registry.apply_feature_service, registry.delete_feature_service),
    )
    for kind, apply, _ in steps:
        for thing in sorted((t for t in to_apply if isinstance(t, kind)), key=_name):
            if kind is Project:
                apply(thing, commit=False)
            else:
                apply(thing, project=project, commit=False)
    for kind, _, delete in steps:
        for thing in sorted((t for t in to_delete if isinstance(t, kind)), key=_name):
            if delete is not None:
                delete(thing.name, project=project, commit=False)


def _name(thing: Any) -> str:
    return str(thing.name)
