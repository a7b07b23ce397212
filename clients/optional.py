"""Packages that are imported only where they are used, and an error that says how to get one."""

import sys
from importlib import import_module
from typing import Any

from hotfeast.clients.errors import MissingPackage


def needed(package: str, what: str) -> Any:
    """Imports a package.

    Args:
        package: Its name, or that of a module of it.
        what: What it is needed for, for the message.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise MissingPackage(f"{what} needs {name}: pip install {name}") from error


def is_of(value: object, package: str, *names: str) -> bool:
    """Whether a value is of one of a package's classes; the package is not imported for that,
    since nobody has such a value without it."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in names))
