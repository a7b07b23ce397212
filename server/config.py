"""Settings from the command line, the environment and a file, in this order.

Each source names settings as `options` has them: `--redis-timeout 2`, `HOTFEAST_REDIS_TIMEOUT=2`
and `redis_timeout: 2` in YAML. What a source has is checked even where another one decides.
"""

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from hotfeast.server.errors import StartFailure
from hotfeast.server.masking import masked
from hotfeast.server.options import (
    PREFIX,
    Option,
    idle_settings,
    made_of,
    options_of,
    required,
)
from hotfeast.server.security.exposure import check_exposure
from hotfeast.server.settings import Settings
from hotfeast.server.yaml_text import DuplicateKey, load_mapping

FILE_VARIABLE = f"{PREFIX}CONFIG"
"""The variable that names the file where no option does."""

# A variable that is so near to a setting's name was probably meant to be one.
_NEAR = 0.85


class Source(StrEnum):
    """Where a value comes from; the first that has one decides."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class Given(NamedTuple):
    """A setting's value.

    Attributes:
        source: Where it comes from.
        place: The same for people, such as `hotfeast.yaml:3`; empty for a default.
        value: The value.
    """

    source: Source
    place: str
    value: Any


class ConfigError(StartFailure):
    """Settings that are not valid.

    Attributes:
        problems: What is wrong, a line each, with its place and what would be right.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(["settings are not valid:", *self.problems]))


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings, and where they come from."""

    given: Mapping[str, Given]
    """By name; what has neither a value nor a default is left out."""
    file: Path | None
    warnings: tuple[str, ...]
    """What is probably not meant."""

    @property
    def values(self) -> dict[str, Any]:
        """What is not left to its default."""
        return {n: g.value for n, g in self.given.items() if g.source is not Source.DEFAULT}

    def settings(self) -> Settings:
        """The settings.

        Raises:
            ConfigError: One that there must be is missing, or they do not go together.
            StartFailure: They expose more than somebody has said they may.
        """
        missing = [n for n in required(Settings) if n not in self.given]
        if missing:
            raise ConfigError(
                f"{name} is missing: give {option.flag}, {option.variable}, or {name} in the file "
                "that --config names"
                for name, option in settings_options().items()
                if name in missing
            )
        try:
            settings = made_of(Settings, self.values)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        check_exposure(settings)
        return settings


def settings_options() -> Mapping[str, Option]:
    """All settings of a gateway, by name."""
    return options_of(Settings)


def read_configuration(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Configuration:
    """Puts all sources together.

    Args:
        flags: What the command line has, by name; None for what it has not.
        environment: The variables of the environment.
        file: The file; else the one that `HOTFEAST_CONFIG` names, if it does.

    Raises:
        ConfigError: One of them has something that is not valid.
    """
    options = settings_options()
    problems: list[str] = []
    if file is None and environment.get(FILE_VARIABLE):
        file = Path(environment[FILE_VARIABLE])
    given: dict[str, Given] = {}
    if file is not None:
        given.update(_of_file(file, options, problems))
    for name, option in options.items():
        text = environment.get(option.variable)
        if text is not None:
            _take(given, option, Source.ENVIRONMENT, option.variable, text, problems)
        if flags.get(name) is not None:
            _take(given, option, Source.FLAG, option.flag, flags[name], problems)
    values = {name: each.value for name, each in given.items()}
    warnings = []
    for name, missing in idle_settings(Settings, values).items():
        if options[missing].default is ...:
            problems.append(f"{given[name].place}: {name} goes with {missing}, which is missing")
        else:
            warnings.append(f"{given[name].place}: {name} counts for nothing without {missing}")
    if problems:
        raise ConfigError(problems)
    meant = _variables_of(values.get("repo"))
    warnings += _strange_variables(environment, options, meant)
    for name, option in options.items():
        if name not in given and option.default is not ...:
            given[name] = Given(Source.DEFAULT, "", option.default)
    return Configuration(
        {name: given[name] for name in options if name in given}, file, tuple(warnings)
    )


def _take(
    given: dict[str, Given],
    option: Option,
    source: Source,
    place: str,
    said: Any,
    problems: list[str],
) -> None:
    try:
        given[option.name] = Given(source, place, parse(option, said, source is Source.FILE))
    except ValueError as error:
        key = f"{option.name}: " if source is Source.FILE else ""
        problems.append(f"{place}: {key}{error}")


def _of_file(path: Path, options: Mapping[str, Option], problems: list[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    try:
        entries = load_mapping(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return given
    except UnicodeDecodeError as error:
        problems.append(f"{path}: it is not UTF-8: {error}")
        return given
    except DuplicateKey as error:
        problems.append(f"{path}:{error.line}: {error.problem}")
        return given
    except yaml.YAMLError as error:
        problems.append(f"{path}: it is not valid YAML: {error}")
        return given
    for key, (line, said) in entries.items():
        place = f"{path}:{line}"
        option = options.get(key) if isinstance(key, str) else None
        if option is None:
            problems.append(f"{place}: {key!r} is no setting{_hint(str(key), options)}")
            continue
        _take(given, option, Source.FILE, place, said, problems)
        found = given.get(option.name)
        if found is not None and isinstance(found.value, Path):
            # So that it does not matter where the gateway is started.
            given[option.name] = found._replace(value=path.parent / found.value)
    return given


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; 'hotfeast config show' has them all"


def _variables_of(repo: Path | None) -> frozenset[str]:
    """The variables that a repository's feature_store.yaml names, as `${NAME}` or `$NAME`; none
    where there is no such file, which whoever opens it tells."""
    if repo is None:
        return frozenset()
    try:
        text = (repo / "feature_store.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return frozenset(re.findall(r"\$\{?(\w+)", text))


def _strange_variables(
    environment: Mapping[str, str], options: Mapping[str, Option], meant: Container[str]
) -> Iterable[str]:
    names = {option.variable for option in options.values()}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in names or variable in meant:
            continue
        near = get_close_matches(variable, names, n=1, cutoff=_NEAR)
        if near:
            yield f"{variable} is no setting; did you mean {near[0]}?"


# ------------------------------------------------------------ values


def parse(option: Option, said: Any, typed: bool) -> Any:
    """A setting's value.

    Args:
        option: The setting.
        said: What stands for it.
        typed: Whether it has a type, as in YAML; else texts stand for all values.

    Raises:
        ValueError: It is none; the message says what would be right.
    """
    setting = option.setting
    try:
        if setting.form is not None:
            if isinstance(said, bool | list | dict) or said is None:
                raise ValueError(f"{said!r} must have the form {setting.form.words}")
            value = setting.form.parse(str(said))
        elif typed:
            # As JSON, in which a number is no text, and a path is.
            value = _adapter(option).validate_json(json.dumps(said, default=str), strict=True)
        elif isinstance(said, str):
            value = _adapter(option).validate_strings(said)
        else:
            value = said
        if setting.check is not None:
            setting.check(value)
    except ValidationError as error:
        said_again = "" if setting.secret else f"{said!r}: "
        raise ValueError(f"{said_again}{error.errors()[0]['msg']}") from None
    return value


@cache
def _adapter(option: Option) -> TypeAdapter[Any]:
    setting = option.setting
    kind: Any = Literal[setting.choices] if setting.choices else option.kind
    if setting.ge is not None or setting.le is not None:
        kind = Annotated[kind, Field(ge=setting.ge, le=setting.le, allow_inf_nan=False)]
    return TypeAdapter(kind)


def shown(option: Option, value: Any) -> str:
    """A value as people may see it."""
    text = option.shown(value)
    return masked(text) if option.setting.secret and text else text


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of a Hotfeast gateway",
        "type": "object",
        "additionalProperties": False,
        "properties": {n: _property(option) for n, option in settings_options().items()},
    }


def _property(option: Option) -> dict[str, Any]:
    setting = option.setting
    if setting.form is not None:
        described: dict[str, Any] = {"type": ["string", "integer"]}
    else:
        described = _adapter(option).json_schema()
    described["description"] = f"{setting.text} A change counts {setting.applies}."
    text = option.shown(option.default)
    if text:
        described["default"] = text if setting.form is not None else option.default
    return described
