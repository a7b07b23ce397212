"""Files that are replaced as a whole, so that nobody reads half of one."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Puts another text in a file. What a link points at is replaced, not the link.

    Args:
        path: The file.
        text: What it is to have.
        mode: Who may read and write it, where it is not there yet.

    Raises:
        OSError: It cannot be written; then it is as it was.
    """
    path = path.resolve()
    if path.exists():
        mode = path.stat().st_mode & 0o777
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
