"""From where a feature comes and where it goes: source, view, on-demand view, service."""

from dataclasses import dataclass

from hotfeast.server.monitoring.report.catalogue import ON_DEMAND, Catalogue, Taken, View

LAYERS = ("source", "view", "on-demand view", "service")
"""In the order of the way."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of the way.

    Attributes:
        layer: One of `LAYERS`.
        name: Of the source, view or service.
    """

    layer: str
    name: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """A graph without cycles.

    Attributes:
        nodes: By layer, and by name in each.
        edges: Pairs of indexes into `nodes`, from what is taken to what takes it.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]


def repository_lineage(catalogue: Catalogue) -> Lineage:
    """The ways of all features of a project."""
    edges: set[tuple[Node, Node]] = set()
    for view in catalogue.views.values():
        edges |= _into(catalogue, view)
    for service in catalogue.services.values():
        edges |= {
            (_node(catalogue, taken.view), Node("service", service.name)) for taken in service.takes
        }
    return _graph(edges, {_node(catalogue, name) for name in catalogue.views})


def feature_lineage(catalogue: Catalogue, view: str, feature: str) -> Lineage:
    """The way of one feature: all that it is made of, and all that takes it.

    Args:
        catalogue: Of the project.
        view: A view of the catalogue.
        feature: One of its features.
    """
    here = _node(catalogue, view)
    edges = set(_into(catalogue, catalogue.views[view]))
    for taken in catalogue.views[view].inputs:
        if taken.view in catalogue.views:
            edges |= _into(catalogue, catalogue.views[taken.view])
    takers = {here}
    for other in catalogue.views.values():
        if _takes(other.inputs, view, feature):
            takers.add(_node(catalogue, other.name))
            edges.add((here, _node(catalogue, other.name)))
    for service in catalogue.services.values():
        target = Node("service", service.name)
        if _takes(service.takes, view, feature):
            edges.add((here, target))
        edges |= {
            (taker, target)
            for taker in takers - {here}
            if any(taken.view == taker.name for taken in service.takes)
        }
    return _graph(edges, {here})


def _takes(takes: tuple[Taken, ...], view: str, feature: str) -> bool:
    return any(taken.view == view and feature in taken.features for taken in takes)


def _node(catalogue: Catalogue, view: str) -> Node:
    known = catalogue.views.get(view)
    computed = known is not None and known.kind == ON_DEMAND
    return Node("on-demand view" if computed else "view", view)


def _into(catalogue: Catalogue, view: View) -> set[tuple[Node, Node]]:
    """What a view is filled or computed from."""
    here = _node(catalogue, view.name)
    edges = {(Node("source", name), here) for name in view.sources}
    return edges | {(_node(catalogue, taken.view), here) for taken in view.inputs}


def _graph(edges: set[tuple[Node, Node]], alone: set[Node]) -> Lineage:
    nodes = alone | {node for edge in edges for node in edge}
    ordered = sorted(nodes, key=lambda n: (LAYERS.index(n.layer), n.name))
    place = {node: i for i, node in enumerate(ordered)}
    return Lineage(tuple(ordered), tuple(sorted((place[a], place[b]) for a, b in edges)))
