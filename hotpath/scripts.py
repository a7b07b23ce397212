"""The scripts that Redis runs, each a file beside this one."""

from importlib.resources import files

_PRELUDE = "row_times.lua"


def load_script(name: str) -> bytes:
    """A script as SCRIPT LOAD wants it: what all of them share, and the file `name`."""
    folder = files("hotfeast.hotpath")
    return b"".join(folder.joinpath(part).read_bytes() for part in (_PRELUDE, name))
