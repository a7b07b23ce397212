"""What an alias says: the feature services that it stands for, with their shares.

    recommendation: {recommendation_v1: 90, recommendation_v2: 10}
    ranking:
      targets: {ranking_v1: 100}
      sticky_by: user_id
      shadow: {target: ranking_v2, share: 5%}

Shares are percent, and those of an alias add up to 100.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hotfeast.server import yaml_text

_KEYS = ("targets", "sticky_by", "shadow")
# Percent; sums of decimal fractions are seldom exact.
_TOLERANCE = 1e-6


class AliasError(ValueError):
    """An alias that says nothing valid; the message names it and what would be right."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is read beside the one that answers."""

    target: str
    share: float
    """Percent of the requests that another target answers."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that stands for feature services."""

    name: str
    targets: tuple[tuple[str, float], ...]
    """Feature services, or views at a version, with their shares in percent."""
    sticky_by: tuple[str, ...] = ()
    """Join keys that requests are told apart by; all of the targets' if there are none."""
    shadow: Shadow | None = None

    @property
    def names(self) -> list[str]:
        """Everything that is read: the targets, and the shadow's."""
        names = [target for target, _ in self.targets]
        if self.shadow is not None and self.shadow.target not in names:
            names.append(self.shadow.target)
        return names

    def as_dict(self) -> dict[str, Any]:
        """The long form, for JSON and YAML."""
        said: dict[str, Any] = {
            "targets": {target: _number(share) for target, share in self.targets}
        }
        if self.sticky_by:
            said["sticky_by"] = list(self.sticky_by)
        if self.shadow is not None:
            said["shadow"] = {
                "target": self.shadow.target,
                "share": f"{_number(self.shadow.share)}%",
            }
        return said


def read_aliases(text: str) -> dict[str, Alias]:
    """Reads a file of aliases.

    Args:
        text: YAML; an empty file has no alias.

    Raises:
        AliasError: It is not valid.
    """
    try:
        said = yaml_text.load(text)
    except yaml_text.DuplicateKey as error:
        raise AliasError(str(error)) from error
    except yaml.YAMLError as error:
        raise AliasError(f"it is not valid YAML: {error}") from error
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise AliasError("it must have a mapping of aliases, such as 'name: {service: 100}'")
    return {alias.name: alias for alias in (parse_alias(name, of) for name, of in said.items())}


def write_aliases(aliases: Mapping[str, Alias]) -> str:
    """The file of aliases, sorted by name, that `read_aliases` reads."""
    said: dict[str, Any] = {}
    for name in sorted(aliases):
        full = aliases[name].as_dict()
        said[name] = full["targets"] if len(full) == 1 else full
    return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=True, default_flow_style=False))


def parse_alias(name: Any, said: Any) -> Alias:
    """Reads one alias.

    Args:
        name: Its name.
        said: Its targets and shares, or the long form.

    Raises:
        AliasError: It is not valid.
    """
    if not _is_name(name):
        raise AliasError(f"alias {name!r}: a name must be printable text; quote it")
    if not isinstance(said, Mapping):
        raise AliasError(
            f"alias {name!r} must have targets with shares, such as {{service: 100}}, not {said!r}"
        )
    if not isinstance(said.get("targets"), Mapping):
        if isinstance(said.get("shadow"), Mapping) or "sticky_by" in said:
            raise AliasError(
                f"alias {name!r}: with shadow or sticky_by the shares go under 'targets'"
            )
        said = {"targets": said}
    for key in said:
        if key not in _KEYS:
            raise AliasError(f"alias {name!r}: {key!r} is unknown; use {', '.join(_KEYS)}")
    shadow = _shadow(name, said.get("shadow"))
    return Alias(name, _targets(name, said["targets"]), _sticky(name, said), shadow)


def _targets(name: str, said: Mapping[Any, Any]) -> tuple[tuple[str, float], ...]:
    targets = []
    for target, share in said.items():
        if not _is_name(target):
            raise AliasError(f"alias {name!r}: target {target!r} must be a feature service's name")
        targets.append((target, _share(name, f"target {target!r}", share)))
    total = sum(share for _, share in targets)
    if abs(total - 100) > _TOLERANCE:
        raise AliasError(
            f"alias {name!r}: the shares of its targets add up to {_number(total)}, not to 100"
        )
    return tuple(targets)


def _sticky(name: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    keys = said.get("sticky_by", [])
    keys = [keys] if isinstance(keys, str) else keys
    if not isinstance(keys, list) or not all(map(_is_name, keys)):
        raise AliasError(f"alias {name!r}: sticky_by must be a join key's name, or a list of them")
    if len(set(keys)) != len(keys):
        raise AliasError(f"alias {name!r}: sticky_by has a join key twice")
    return tuple(keys)


def _shadow(name: str, said: Any) -> Shadow | None:
    if said is None:
        return None
    if not isinstance(said, Mapping) or set(said) != {"target", "share"}:
        raise AliasError(
            f"alias {name!r}: shadow must have a target and a share, such as "
            "{target: service_v2, share: 5%}"
        )
    target = said["target"]
    if not _is_name(target):
        raise AliasError(f"alias {name!r}: the shadow's target must be a feature service's name")
    return Shadow(target, _share(name, "the shadow's share", said["share"]))


def _is_name(said: Any) -> bool:
    # YAML does not bring every other character back.
    return isinstance(said, str) and said != "" and said.isprintable()


def _share(name: str, what: str, said: Any) -> float:
    """Percent, with the sign or without."""
    number = said
    if isinstance(said, str):
        try:
            number = float(said.strip().removesuffix("%"))
        except ValueError:
            number = None
    # A NaN is in no range.
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise AliasError(f"alias {name!r}: {what} is {said!r}; it must be 0 to 100 percent")
    return float(number)


def _number(share: float) -> int | float:
    """Without a point where it is whole."""
    rounded = round(share, 6)
    return int(rounded) if rounded == int(rounded) else rounded
