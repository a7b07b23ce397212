"""The scripts in `clients/examples`, as modules."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def example_module(checkout: Path, name: str) -> ModuleType:
    """One of them, without its being run."""
    spec = spec_from_file_location(name, checkout / "clients" / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # What is sent to other processes is looked for there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
