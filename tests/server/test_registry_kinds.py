"""The page on Feast's registry names every class that the installed Feast has."""

import re
from pathlib import Path

from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.descriptor import Descriptor


def classes(message: Descriptor, found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    """All message types that a message is made of."""
    found[message.full_name] = message
    for field in message.fields:
        kind = field.message_type
        if kind is not None and not kind.GetOptions().map_entry and kind.full_name not in found:
            classes(kind, found)
    return found


def test_every_class_of_the_registry_is_accounted_for(checkout: Path) -> None:
    named = set(re.findall(r"`(\w+)`", (checkout / "docs" / "feast-registry.md").read_text()))
    missing = {field.name for field in Registry.DESCRIPTOR.fields} - named
    for message in classes(Registry.DESCRIPTOR, {}).values():
        outermost = message
        while outermost.containing_type is not None:
            outermost = outermost.containing_type
        if message.file.package == "feast.core" and outermost.name not in named:
            missing.add(outermost.name)
    assert missing == set()
