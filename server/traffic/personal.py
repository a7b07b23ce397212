"""What of an answer is about persons: values that are not shown, and need a grant of their own.

The tag `pii` says so, of a feature or of its view.
"""

from collections.abc import Iterator, Mapping

from hotfeast.server.plan import ServedFeature, ServingPlan
from hotfeast.server.registry import Definitions, ViewDefinition

_PII = "pii"


def personal_columns(definitions: Definitions, plan: ServingPlan) -> frozenset[str]:
    """Names of the features of an answer that are tagged as personal, or whose view is.

    Args:
        definitions: What the plan was made of.
        plan: The plan.
    """
    return frozenset(
        served.output_name for served in plan.served if _is_personal(definitions, served)
    )


def personal_views(definitions: Definitions, plan: ServingPlan) -> frozenset[str]:
    """Names of the views that personal features of an answer are of.

    What is computed from personal features is personal, too, unless the tag of the on-demand view,
    or of the feature, says `false`.

    Args:
        definitions: What the plan was made of.
        plan: The plan.
    """
    computed = {read.view.name: read.view for read in plan.on_demand}
    found = set()
    for served in plan.served:
        if _is_personal(definitions, served):
            found.add(served.view)
        elif served.view in computed and _takes_personal(definitions, computed[served.view]):
            own = dict(_tags(computed[served.view], served.feature))
            if own.get(_PII, "").lower() != "false":
                found.add(served.view)
    return frozenset(found)


def _is_personal(definitions: Definitions, served: ServedFeature) -> bool:
    view = definitions.views.get(served.view)
    return view is not None and _says_personal(view, served.feature)


def _says_personal(view: ViewDefinition, feature: str) -> bool:
    return any(_says(tags) for tags in _all_tags(view, feature))


def _takes_personal(definitions: Definitions, view: ViewDefinition) -> bool:
    sources = [(definitions.views.get(source.view), source) for source in view.sources]
    return any(
        _says_personal(source_view, name)
        for source_view, source in sources
        if source_view is not None
        for name in source.features
    ) or any(_says(field.tags) for field in view.request_fields)


def _all_tags(view: ViewDefinition, feature: str) -> Iterator[Mapping[str, str]]:
    yield view.tags
    found = view.feature(feature)
    if found is not None:
        yield found.tags


def _tags(view: ViewDefinition, feature: str) -> Iterator[tuple[str, str]]:
    for tags in _all_tags(view, feature):
        yield from tags.items()


def _says(tags: Mapping[str, str]) -> bool:
    return tags.get(_PII, "").lower() == "true"
