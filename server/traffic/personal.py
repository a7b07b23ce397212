"""Which columns of an answer are about persons, so that their values are not shown."""

from hotfeast.server.plan import ServingPlan
from hotfeast.server.registry import Definitions

_PII = "pii"


def personal_columns(definitions: Definitions, plan: ServingPlan) -> frozenset[str]:
    """Names of the features of an answer that are tagged as personal, or whose view is.

    Args:
        definitions: What the plan was made of.
        plan: The plan.
    """
    hidden = set()
    for served in plan.served:
        view = definitions.views.get(served.view)
        feature = view.feature(served.feature) if view is not None else None
        tags = [view.tags] if view is not None else []
        tags += [feature.tags] if feature is not None else []
        if any(each.get(_PII, "").lower() == "true" for each in tags):
            hidden.add(served.output_name)
    return frozenset(hidden)
