"""What is wrong with a file, by its place in it."""

from collections.abc import Iterator

from pydantic import ValidationError


def faults_of(error: ValidationError) -> Iterator[str]:
    """A line for each fault. Values are left out: what stands in a wrong place may be a secret."""
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]
        ).removeprefix(".")
        words = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            words = "is unknown"
        yield f"{place}: {words}" if place else words
