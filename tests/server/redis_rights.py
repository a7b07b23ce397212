"""The ACL lines of `docs/how-to/redis.md`."""

import re
from pathlib import Path

_TEXT = (Path(__file__).parents[2] / "docs/how-to/redis.md").read_text()


def _rights(user: str) -> str:
    """What a user may, as the page says it."""
    (line,) = re.findall(rf"^ACL SETUSER {user} on >PASSWORD (.*)$", _TEXT, re.MULTILINE)
    return str(line)


READER = _rights("hotfeast-reader")
"""Of a gateway that only reads."""
GATEWAY = _rights("hotfeast")
"""Of one that takes pushes, too."""
SINCE_7_2 = "+client|setinfo"
"""What either may have in addition where Redis knows it."""

assert f"`{SINCE_7_2.replace('|', chr(92) + '|')}`" in _TEXT, "it is in the table"
