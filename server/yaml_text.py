"""YAML as people write it: a key that comes twice is an error, and does not win silently."""

from typing import Any

import yaml


class DuplicateKey(yaml.YAMLError):
    """A key that is there twice.

    Attributes:
        line: That of the mapping that has it.
        problem: What is wrong, without the line.
    """

    def __init__(self, key: Any, line: int) -> None:
        self.line = line
        self.problem = f"{key!r} is there twice"
        super().__init__(f"{self.problem}, in the mapping of line {line}")


class _OnceOnly(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise DuplicateKey(key, node.start_mark.line + 1)
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """What a document says.

    Raises:
        yaml.YAMLError: It is not valid.
    """
    return yaml.load(text, Loader=_OnceOnly)


def load_mapping(text: str) -> dict[Any, tuple[int, Any]]:
    """What a mapping says, by key: the line of the key, and the value. Empty for an empty document.

    Raises:
        yaml.YAMLError: It is not valid, or no mapping.
    """
    loader = _OnceOnly(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError("it must be a mapping, such as 'threads: 16'")
        said = loader.construct_document(node)
        # Here and not in what was constructed, since a merged key (<<) stands somewhere else.
        lines = {
            loader.construct_object(key, deep=True): key.start_mark.line + 1
            for key, _ in node.value
        }
        return {key: (lines[key], value) for key, value in said.items()}
    finally:
        loader.dispose()
