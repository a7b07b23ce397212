"""Functions of on-demand views from the repository's own files instead of the registry.

A registry carries functions as source and as pickles, and loading either runs code. Who trusts the
files that are deployed, and not whoever may write to the registry, has the functions taken from the
files: the registry's are then never loaded, and a view whose definition the files do not have, or
have otherwise, is refused.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import LabelView, OnDemandFeatureView, parse_repo


class FunctionRefused(Exception):
    """Why an on-demand view does not get its function from the repository's files."""


def load_repo_views(repo: Path) -> dict[str, Any]:
    """Imports a repository's files, as `feast apply` does, and gives its on-demand views by name.

    Files are imported once in a process: after a change, start it again.

    Raises:
        StartFailure: A file cannot be imported.
    """
    with imports_from(repo):
        try:
            contents = parse_repo(Path.cwd())
        except Exception as error:
            raise StartFailure(
                f"--transforms-from=repo: the files of {repo} cannot be imported "
                f"({type(error).__name__}: {error})"
            ) from error
    return {view.name: view for view in contents.on_demand_feature_views}


@contextmanager
def imports_from(repo: Path) -> Iterator[None]:
    """Makes a folder the one that Feast imports from, which is the current one."""
    before = Path.cwd()
    os.chdir(repo)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # The path stays: functions import other files of the repository when they run.
        os.chdir(before)


def without_function(feast_class: Any, message: Any) -> Any:
    """Feast's object of a stored view, without loading a function that it may carry.

    Serving such views takes no function of theirs: they are computed before they are stored.
    """
    if issubclass(feast_class, LabelView):
        return feast_class.from_proto(message)
    return feast_class.from_proto(message, skip_udf=True)


def with_repo_function(message: Any, repo_views: Mapping[str, Any]) -> Any:
    """Feast's object of the registry's on-demand view, with the function of the repository's.

    Args:
        message: As stored in the registry.
        repo_views: Feast's on-demand views of the repository's files, by name.

    Raises:
        FunctionRefused: The files do not define the view, or not as the registry does.
    """
    view = OnDemandFeatureView.from_proto(message, skip_udf=True)
    ours = repo_views.get(view.name)
    if ours is None:
        raise FunctionRefused(
            f"on-demand feature view {view.name!r} is in the registry and not in the repository's "
            "files, which --transforms-from=repo takes functions from"
        )
    for what, registered, defined in _compared(view, message, ours):
        if registered != defined:
            raise FunctionRefused(
                f"on-demand feature view {view.name!r} has another {what} in the registry than in "
                "the repository's files, which --transforms-from=repo takes functions from; apply "
                "the files, or deploy those that were applied and start again"
            )
    view.feature_transformation = ours.feature_transformation
    return view


def _compared(view: Any, message: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """What must be the same for a function to fit: name, the registry's, the files'."""
    yield "mode", view.mode, ours.mode
    yield "singleton", bool(view.singleton), bool(ours.singleton)
    yield "write_to_online_store", view.write_to_online_store, ours.write_to_online_store
    yield "list of aggregations", view.aggregations, ours.aggregations
    yield "schema", _fields(view.features), _fields(ours.features)
    yield "request data", view.get_request_data_schema(), ours.get_request_data_schema()
    sources = view.source_feature_view_projections
    yield "set of sources", set(sources), set(ours.source_feature_view_projections)
    for name, source in ours.source_feature_view_projections.items():
        # Where a source's schema is inferred when it is applied, the files do not have it.
        if source.features:
            registered, defined = ({f.name for f in s.features} for s in (sources[name], source))
            yield f"set of features of source {name!r}", registered, defined
    transformation = message.spec.feature_transformation
    if transformation.HasField("substrait_transformation"):
        plan = transformation.substrait_transformation.substrait_plan
        yield "function", plan, getattr(ours.feature_transformation, "substrait_plan", None)
    else:
        text = transformation.user_defined_function.body_text
        text = text or message.spec.user_defined_function.body_text
        yield "function", text, getattr(ours.feature_transformation, "udf_string", "")


def _fields(fields: Any) -> set[tuple[str, int]]:
    return {(field.name, field.dtype.to_value_type().value) for field in fields}
