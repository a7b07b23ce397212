"""Stored entity keys, told from all other keys of a Redis.

A key is read from its first byte to its last: the join keys of a view, a value for each, and what
is left is the project. That it ends with the project's name would not do, since another project's
name may end with it.

Source: `feast.infra.key_encoding_utils.serialize_entity_key`, version 3.
"""

import struct
from collections.abc import Iterable
from typing import Any

from hotfeast.hotpath.plan import key_prefix

_HEAD = struct.Struct("<II")
# ValueType.Enum: BYTES, STRING, INT32, INT64 and UNIX_TIMESTAMP.
_BYTES, _STRING, _INT32, _INT64, _TIME = 1, 2, 3, 4, 8
_NUMBERS = {_INT32: struct.Struct("<i"), _INT64: struct.Struct("<q"), _TIME: struct.Struct("<q")}


class EntityKeys:
    """The keys of all entities with certain join keys, in one project."""

    def __init__(self, join_keys: Iterable[str], project: str) -> None:
        """
        Args:
            join_keys: Names in the store; none for views without entities.
            project: Feast's project.
        """
        self.join_keys = tuple(sorted(join_keys))
        self._prefix = key_prefix(self.join_keys)
        self._project = project.encode()

    def read(self, key: bytes) -> tuple[Any, ...] | None:
        """The values of a key, in the order of `join_keys`; None where it is no such key."""
        if not key.startswith(self._prefix):
            return None
        at = len(self._prefix)
        values = []
        for _ in self.join_keys:
            if len(key) - at < _HEAD.size:
                return None
            kind, size = _HEAD.unpack_from(key, at)
            at += _HEAD.size
            data = key[at : at + size]
            at += size
            number = _NUMBERS.get(kind)
            if len(data) != size or (number is not None and number.size != size):
                return None
            if number is not None:
                values.append(number.unpack(data)[0])
            elif kind == _STRING:
                values.append(data.decode("utf-8", "replace"))
            elif kind == _BYTES:
                values.append(data)
            else:
                return None
        return tuple(values) if key[at:] == self._project else None

    def describe(self, key: bytes) -> str:
        """The entity that a key is of, for messages."""
        values = self.read(key) or ()
        pairs = zip(self.join_keys, values, strict=False)
        return ", ".join(f"{name}={value!r}" for name, value in pairs) or "no entity"
