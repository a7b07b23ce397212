"""On-demand views that are not compiled."""

from collections.abc import Iterator

from hotfeast.server.errors import RequestFailure
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import Subject
from hotfeast.server.plan import plan_features


def without_kernel(subject: Subject) -> Iterator[Fault]:
    """On-demand views that Python has to compute for each request, and why."""
    definitions = subject.definitions
    maker = KernelMaker()
    for view in definitions.views.values():
        if view.kind != "on_demand_feature_view" or view.stored:
            continue
        if view.problem:
            yield _not_servable(view.name, view.problem)
            continue
        references = [f"{view.name}:{feature.name}" for feature in view.features]
        try:
            plan = plan_features(definitions, references, full_feature_names=True)
        except RequestFailure as failure:
            yield _not_servable(view.name, failure.message)
            continue
        for read in maker.prepare(definitions, plan).on_demand:
            if read.kernel is None:
                yield Fault(
                    Kind.view,
                    view.name,
                    "",
                    f"has no kernel and runs in Python for each request: {read.kernel_refusal}",
                    "write it as pandas over whole columns; the documentation's page on kernels "
                    "says what compiles",
                )


def _not_servable(name: str, why: str) -> Fault:
    fix = "mend the view, or what it takes from others"
    return Fault(Kind.view, name, "", f"cannot be served: {why}", fix)
