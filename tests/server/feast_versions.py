"""Where the oldest Feast that is supported differs from the newest, for the tests that notice."""

from importlib.metadata import version

FEAST = version("feast")
_NUMBERS = tuple(map(int, FEAST.split(".")[:2]))

TELLS_OF_CHANGES = _NUMBERS != (0, 64)
"""Whether Feast's registry server says when the registry was last changed."""
SORTS_BATCHES = _NUMBERS >= (0, 66)
"""Whether Feast keeps the newest of a batch's rows for one key; before, it kept the last of those
that were newer than what was stored."""
ADDS_UP_FEATURES = _NUMBERS >= (0, 66)
"""Whether Feast can answer a service that takes features of one view in several parts."""
CLEARS_TTLS = _NUMBERS >= (0, 66)
"""Whether Feast takes over that a registered view has no TTL any more."""
PINS_SERVICES = _NUMBERS >= (0, 67)
"""Whether a feature service can take a view at a version."""
