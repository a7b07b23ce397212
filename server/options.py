"""Which settings there are, read off the classes that hold them.

A field of such a class is one as soon as its annotation has a `Setting`: that is the one place
where a setting is defined. Its name, text, type, bounds and default are those of the option of
`hotfeast serve`, of the variable of the environment, of the key in a file and of its schema.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

PREFIX = "HOTFEAST_"
"""What names of variables begin with."""


class Applies(StrEnum):
    """From when on a changed value counts."""

    AT_ONCE = "at once"
    NEW_WORKERS = "with new workers"
    """Workers are replaced, one after another, which no client notices."""
    RESTART = "after a restart"


class Form(NamedTuple):
    """How values are written that are no plain number, text or path.

    Attributes:
        words: For people, such as `HOST:PORT`.
        parse: Makes the value of a text; ValueError where it cannot.
        show: Makes the text of a value.
    """

    words: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Setting:
    """Marks a field as a setting; one that holds further settings as what turns them on."""

    text: str
    """What it is for, with its unit."""
    _: KW_ONLY
    name: str = ""
    """Where it is not the field's."""
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()
    form: Form | None = None
    check: Callable[[Any], None] | None = None
    """Raises ValueError for values that are in the bounds and wrong all the same."""
    scale: int = 1
    """What a number is multiplied by."""
    fields: tuple[str, ...] = ()
    """The fields that the parts of the value go to, where there is more than one."""
    also: tuple[str, ...] = ()
    """Further spellings of the option."""
    secret: bool = False
    """Whether it is never shown; of a URL only the password is not."""
    needs: str = ""
    """The name of the setting without which it counts for nothing."""
    applies: Applies = Applies.NEW_WORKERS


class Option(NamedTuple):
    """A setting, as it can be given.

    Attributes:
        name: Its key in a file.
        setting: What its field says of it.
        kind: The type of its values.
        default: Not scaled; None where there is none, `...` where it must be given.
    """

    name: str
    setting: Setting
    kind: Any
    default: Any

    @property
    def flag(self) -> str:
        """As an option of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As a variable of the environment."""
        return PREFIX + self.name.upper()

    def shown(self, value: Any) -> str:
        """A value's text, the same as it is given by."""
        if value is None or value is ...:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if self.setting.form is not None:
            return self.setting.form.show(value)
        return f"{value:g}" if isinstance(value, float) else str(value)


class _Member(NamedTuple):
    """A parameter of a class that holds settings, or a setting.

    Attributes:
        field: Its name.
        option: The setting; None for settings that are always there, or as soon as what they must
            have is given.
        holder: The class of the settings that it holds; None where it is a plain value.
        optional: Whether it can be None.
    """

    field: str
    option: Option | None
    holder: type | None
    optional: bool

    def wanted(self, values: Mapping[str, Any]) -> bool:
        """Whether the settings that it holds are to be there."""
        assert self.holder is not None
        if self.option is not None:
            return bool(values.get(self.option.name))
        return not self.optional or all(name in values for name in required(self.holder))


_known: dict[type, tuple[_Member, ...]] = {}


def _members(holder: type) -> tuple[_Member, ...]:
    if holder not in _known:
        _known[holder] = tuple(_find_members(holder))
    return _known[holder]


def _find_members(holder: type) -> Iterator[_Member]:
    hints = get_type_hints(holder, include_extras=True)
    parameters = inspect.signature(holder).parameters
    for field in parameters:
        hint, setting = hints[field], None
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            setting = next((mark for mark in marks if isinstance(mark, Setting)), None)
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        optional = NoneType in get_args(hint)
        kind = kinds[0] if optional and len(kinds) == 1 else hint
        held = kind if isinstance(kind, type) and _holds_settings(kind) else None
        option = None
        if setting is not None:
            name = setting.name or field
            if held is not None:
                option = Option(name, setting, bool, False)
            else:
                defaults = [_default(parameters[each]) for each in setting.fields or (field,)]
                default = tuple(defaults) if setting.fields else defaults[0]
                if setting.scale != 1 and isinstance(default, int | float):
                    default = default // setting.scale
                option = Option(name, setting, kind, default)
        if option is not None or held is not None:
            yield _Member(field, option, held, optional)


def _default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default


def _holds_settings(kind: type) -> bool:
    return any(
        isinstance(mark, Setting)
        for hint in getattr(kind, "__annotations__", {}).values()
        for mark in getattr(hint, "__metadata__", ())
    )


def options_of(holder: type) -> Mapping[str, Option]:
    """All settings of a class, and of those that its fields hold, by name."""
    found: dict[str, Option] = {}
    for member in _members(holder):
        if member.option is not None:
            assert member.option.name not in found, member.option.name
            found[member.option.name] = member.option
        if member.holder is not None:
            found.update(options_of(member.holder))
    return found


def required(holder: type) -> list[str]:
    """Names of the settings that a class must be given."""
    return [m.option.name for m in _members(holder) if m.option and m.option.default is ...]


def made_of(holder: type[T], values: Mapping[str, Any]) -> T:
    """An object with settings.

    Args:
        holder: Its class.
        values: The settings that are given, by name, not scaled; what is missing has its default.
    """
    arguments: dict[str, Any] = {}
    for member in _members(holder):
        if member.holder is not None:
            if member.wanted(values):
                arguments[member.field] = made_of(member.holder, values)
            continue
        option = member.option
        if option is None or option.name not in values:
            continue
        value = values[option.name]
        if option.setting.fields:
            arguments.update(zip(option.setting.fields, value, strict=True))
        else:
            scale = option.setting.scale
            arguments[member.field] = value if scale == 1 else value * scale
    return holder(**arguments)


def idle_settings(holder: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that are given and count for nothing, with the one that would turn them on."""
    found: dict[str, str] = {}
    for member in _members(holder):
        if member.option is not None and member.option.name in values:
            needs = member.option.setting.needs
            if needs and needs not in values:
                found[member.option.name] = needs
        if member.holder is None:
            continue
        inside = options_of(member.holder)
        if member.wanted(values):
            found.update(idle_settings(member.holder, values))
            continue
        missing = [n for n in required(member.holder) if n not in values]
        switch = member.option.name if member.option is not None else missing[0]
        found.update((name, switch) for name in inside if name in values)
    return found


def values_of(settings: Any) -> dict[str, Any]:
    """The settings that an object has, by name; those that are not there are left out."""
    found: dict[str, Any] = {}
    for member in _members(type(settings)):
        value = getattr(settings, member.field)
        if member.holder is not None:
            if member.option is not None:
                found[member.option.name] = value is not None
            if value is not None:
                found.update(values_of(value))
        elif member.option is not None:
            setting = member.option.setting
            if setting.fields:
                value = tuple(getattr(settings, field) for field in setting.fields)
            elif setting.scale != 1:
                value //= setting.scale
            found[member.option.name] = value
    return found
