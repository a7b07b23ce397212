from typing import Literal

def value_state(value: bytes) -> Literal["set", "null", "corrupt"]:
    """Says what the wire bytes of a `Value` are."""

def row_time(timestamp: bytes) -> tuple[int, int]:
    """Reads a serialized `Timestamp` as `(seconds, nanos)`; ValueError where it is none."""
