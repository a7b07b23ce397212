"""Secrets as people may see them."""

import re

_HIDDEN = "***"
# Of a URL; a password may have any character, so it ends at the last @.
_OF_URL = re.compile(r"(://[^/:@]*:).*@|([?&]password=)[^&]*")


def masked(secret: str) -> str:
    """A secret that may be shown: of a URL all but the password, of others nothing."""
    if "://" not in secret:
        return _HIDDEN
    return _OF_URL.sub(
        lambda found: f"{found[1]}{_HIDDEN}@" if found[1] else f"{found[2]}{_HIDDEN}", secret
    )
