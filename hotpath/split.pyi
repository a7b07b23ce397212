from collections.abc import Iterable, Sequence

from hotfeast.hotpath.request import Request

def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 of `data`; the key has 16 bytes, else ValueError."""

class Split:
    """Divides requests over targets."""

    def __init__(
        self,
        name: str,
        targets: Sequence[tuple[str, float]],
        keys: Iterable[Sequence[str]],
    ) -> None:
        """Two splits of different names divide the same entities differently. Of `targets` only the
        weights' proportions count. `keys` are the join keys that requests are told apart by: of
        each its name, and others that its column may come under; at random if there are none.

        Raises ValueError where no weight is above 0, or one is below."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The join keys that requests are told apart by, in the order in which they are hashed."""

    @staticmethod
    def hashed(text: str) -> int:
        """The hash of a name."""

    def choose(self, request: Request) -> int:
        """The index of the target that a request goes to, by the entity of its first row."""
