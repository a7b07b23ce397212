"""Time spans in words."""


def span_words(seconds: float) -> str:
    """A time span in the largest unit that it has a whole number of, such as `2d` or `90m`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
