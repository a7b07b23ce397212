"""What `hotfeast doctor` has to say of a server."""

from dataclasses import dataclass

FINE, ADVICE, PROBLEM = "fine", "advice", "problem"
"""How a finding is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the server.

    Attributes:
        kind: `fine`, `advice` or `problem`.
        what: What is so.
        change: What to do, and what it would gain; empty where it is fine.
    """

    kind: str
    what: str
    change: str = ""
