from typing import Any

def serialized_values(values: list[Any]) -> bytes | None:
    """Serializes a column of int, float, bool, str, bytes and None as a `RepeatedValue`.

    None where a value is of another type, or an int of more than 64 bits. Raises
    UnicodeEncodeError where a text has lone surrogates.
    """
