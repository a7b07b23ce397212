"""What a transform computes, as a graph: nodes in the order in which its function made them.

The graph knows no types: those depend on a request's data (an integer column with missing values is
float64 in pandas), so `lowering` finds them anew for each case.
"""

from dataclasses import dataclass, field


class Refused(BaseException):
    """A transform does what no kernel is made for; the message says what.

    Not an `Exception`, so that a transform's own `except Exception` does not hide it.
    """


@dataclass(frozen=True, slots=True)
class Constant:
    """A plain Python scalar: None, bool, int, float or str."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Ref:
    """A node, by its number in the graph."""

    node: int


Argument = Constant | Ref
Parameter = str | int | float | bool | None | tuple["Parameter", ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One step.

    Attributes:
        op: What is done; `lowering` has one rule for each.
        args: What it is done to.
        params: What else the operation has to know.
        series: Whether the result is a pandas Series; otherwise it is a NumPy array.
    """

    op: str
    args: tuple[Argument, ...] = ()
    params: tuple[Parameter, ...] = ()
    series: bool = True


@dataclass(slots=True)
class Graph:
    """A whole transform.

    Attributes:
        nodes: Every step, those whose results go unused among them: they may raise in pandas.
        inputs: Names of the columns that are read, in the order of the first read.
        outputs: The columns that were assigned to the frame that is returned.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, Argument] = field(default_factory=dict)

    def add(self, node: Node) -> Ref:
        """Appends a node."""
        self.nodes.append(node)
        return Ref(len(self.nodes) - 1)

    def read(self, name: str) -> Ref:
        """The node of an input column."""
        if name not in self.inputs:
            self.inputs.append(name)
            return self.add(Node("input", params=(name,)))
        for number, node in enumerate(self.nodes):
            if node.op == "input" and node.params == (name,):
                return Ref(number)
        raise AssertionError(f"input {name!r} has no node")
