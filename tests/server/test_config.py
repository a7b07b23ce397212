"""Settings from options, variables and a file; what is wrong with them is told with its place."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from hotfeast.server.cli import app
from hotfeast.server.config import (
    ConfigError,
    Source,
    json_schema,
    parse,
    read_configuration,
    settings_options,
)
from hotfeast.server.config_watch import ConfigWatch
from hotfeast.server.options import Applies, made_of, values_of
from hotfeast.server.settings import ConnectionLimits, FeatureLogSettings, MonitorSettings, Settings

OPTIONS = settings_options()
SECRET = "redis://:hunter2@127.0.0.1:6379/0?password=hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hotfeast.yaml"


def problems(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        read_configuration(flags or {}, variables or {}, file).settings()
    return error.value.problems


def test_an_option_comes_before_a_variable_and_that_before_the_file(file: Path) -> None:
    file.write_text("repo: features\nthreads: 1\nworkers: 2\ndrain: 3\nmonitor: true\n")
    variables = {"HOTFEAST_THREADS": "4", "HOTFEAST_WORKERS": "5", "HOTFEAST_MONITOR": "no"}
    found = read_configuration({"threads": "6", "drain": None}, variables, file)
    settings = found.settings()
    assert (settings.threads, settings.workers, settings.drain) == (6, 5, 3.0)
    assert settings.monitor is None
    assert settings.redis_timeout == 1.0
    # What a file names is found from the file's folder.
    assert settings.repo == file.parent / "features"
    given = found.given
    assert (given["threads"].source, given["threads"].place) == (Source.FLAG, "--threads")
    assert given["workers"].place == "HOTFEAST_WORKERS"
    assert given["drain"].place == f"{file}:4"
    assert given["redis_timeout"].source is Source.DEFAULT
    # The variable that names the file.
    assert read_configuration({}, {"HOTFEAST_CONFIG": str(file)}).settings().threads == 1


def test_all_that_is_wrong_is_told_at_once_with_its_place(file: Path) -> None:
    file.write_text("repo: .\nthreds: 3\nworkers: 0\nbind: nonsense\ncache_mb: '7'\n")
    said = problems(file, {"cpus": "1-", "monitor_window": "7"}, {"HOTFEAST_DRAIN": "soon"})
    assert said == (
        f"{file}:2: 'threds' is no setting; did you mean 'threads'?",
        f"{file}:3: workers: 0: Input should be greater than or equal to 1",
        f"{file}:4: bind: 'nonsense' must have the form HOST:PORT, for example 127.0.0.1:6570",
        f"{file}:5: cache_mb: '7': Input should be a valid integer",
        "--cpus: '1-' is no list of CPUs such as 1 or 2-5,7",
        "HOTFEAST_DRAIN: 'soon': Input should be a valid number, unable to parse string as a "
        "number",
        "--monitor-window: 7 s do not divide an hour; 300 do",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threads: 1\nthreads: 2\n", ":1: 'threads' is there twice"),
        ("- threads\n", "it must be a mapping"),
        ("threads: [\n", "it is not valid YAML"),
        ("threads:\n", ":1: threads: None: Input should be a valid integer"),
        ("monitor: 1\n", ":1: monitor: 1: Input should be a valid boolean"),
        ("redis_timeout: .nan\n", "redis_timeout: nan: Input should be a finite number"),
        ("status_mode: loose\n", "status_mode: 'loose': Input should be 'strict' or 'feast'"),
        ("as_of: never\n", ":1: as_of: Invalid isoformat string: 'never'"),
        ("3: 4\n", ":1: 3 is no setting"),
    ],
)
def test_files_that_are_not_valid(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    (problem,) = problems(file)
    assert problem.startswith(str(file))
    assert said in problem


def test_no_file_no_repository(file: Path) -> None:
    assert problems(file) == (f"{file}: No such file or directory",)
    assert problems() == (
        "repo is missing: give --repo, HOTFEAST_REPO, or repo in the file that --config names",
    )
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in problems(file)[0]


def test_what_counts_for_nothing_is_told(file: Path) -> None:
    file.write_text("repo: .\nmonitor_rate: 5\n")
    variables = {"HOTFEAST_THREDS": "3", "HOTFEAST_PORT": "tcp://10.0.0.1:80"}
    found = read_configuration({}, variables, file)
    assert found.warnings == (
        f"{file}:2: monitor_rate counts for nothing without monitor",
        "HOTFEAST_THREDS is no setting; did you mean HOTFEAST_THREADS?",
    )
    # A variable that the repository names is meant for it, and for none that does not.
    (file.parent / "feature_store.yaml").write_text("connection_string: ${HOTFEAST_REDIS}\n")
    assert read_configuration({}, {"HOTFEAST_REDIS": "h:1"}, file).warnings == found.warnings[:1]
    variables = {"HOTFEAST_REDIS": "h:1"}
    (said,) = read_configuration({"repo": Path("nowhere")}, variables).warnings
    assert said == "HOTFEAST_REDIS is no setting; did you mean HOTFEAST_REDIS_URL?"
    found = read_configuration({"metrics_token_file": Path("t")}, {})
    assert found.warnings == (
        "--metrics-token-file: metrics_token_file counts for nothing without metrics",
    )


def test_what_must_come_together() -> None:
    said = problems(flags={"repo": Path("."), "feature_log_rate": "0.5"})
    assert said == ("--feature-log-rate: feature_log_rate goes with feature_log, which is missing",)


def test_groups_of_settings() -> None:
    flags = {
        "repo": Path("r"), "bind": "[::1]:0", "monitor": True, "monitor_rate": "7",
        "feature_log": Path("log"), "feature_log_mb": "3", "keepalive_time": "5",
        "cpus": "0", "metrics": "localhost:9100", "as_of": "2026-01-01",
    }  # fmt: skip
    settings = read_configuration(flags, {}).settings()
    assert (settings.host, settings.port) == ("[::1]", 0)
    assert settings.monitor == MonitorSettings(None, 7)
    assert settings.feature_log == FeatureLogSettings(Path("log"), 0.0, 3 * 2**20, 300.0)
    assert settings.connections == ConnectionLimits(keepalive=5.0)
    assert settings.traffic is None
    assert settings.cpus == (0,)
    assert settings.metrics == ("localhost", 9100)
    assert settings.as_of is not None
    assert settings.as_of.isoformat() == "2026-01-01T00:00:00+00:00"
    # What settings say brings them back.
    assert made_of(Settings, values_of(settings)) == settings


def test_the_defaults_are_those_of_the_class() -> None:
    assert read_configuration({"repo": Path(".")}, {}).settings() == Settings(repo=Path("."))


def test_the_schema_says_what_the_gateway_takes(file: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(OPTIONS)
    assert schema["properties"]["bind"]["default"] == "127.0.0.1:6570"
    assert schema["properties"]["server"]["enum"] == ["native", "grpcio"]


VALIDATOR = jsonschema.Draft202012Validator(json_schema())
PLAIN = sorted(n for n, o in OPTIONS.items() if o.setting.form is None and o.setting.check is None)


@settings(deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 2**40), st.text(max_size=5),
        st.lists(st.integers()), st.sampled_from(["feast", "native"]),
        # To a schema 3.0 is an integer.
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x % 1),
    ),
)  # fmt: skip
def test_the_schema_and_the_gateway_agree(name: str, value: Any) -> None:
    try:
        parse(OPTIONS[name], value, typed=True)
        taken = True
    except ValueError:
        taken = False
    assert VALIDATOR.is_valid({name: value}) == taken


# ------------------------------------------------------------ commands


def hotfeast(*arguments: str, code: int = 0, **variables: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env=variables)
    assert result.exit_code == code, result.output
    return result


def test_config_check(file: Path) -> None:
    file.write_text("repo: .\nthreads: 3\n")
    said = hotfeast("config", "check", "--config", str(file), "--monitor")
    assert said.stdout == f"{file}: valid; 3 settings are not left to their defaults\n"
    file.write_text("repo: .\nthreads: many\n")
    for command in (("config", "check"), ("config", "show"), ("serve",)):
        refused = hotfeast(*command, "--config", str(file), code=2)
        assert f"{file}:2: threads: 'many': Input should be a valid integer" in refused.stderr
    assert "--repo" in hotfeast("serve", code=2).stderr
    exposed = hotfeast("config", "check", "--repo", ".", "--bind", "0.0.0.0:6570", code=2)
    assert "--allow-unauthenticated" in exposed.stderr


def test_config_show_masks_secrets(file: Path) -> None:
    file.write_text(f"repo: /srv\nredis_url: {SECRET}\n")
    shown = hotfeast(
        "config", "show", "--config", str(file), "--drain", "5", HOTFEAST_THREADS="9"
    ).stdout
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert rows["threads"] == ["threads", "9", "HOTFEAST_THREADS", "with", "new", "workers"]
    assert rows["drain"][:3] == ["drain", "5", "--drain"]
    assert rows["workers"] == ["workers", "1", "default", "after", "a", "restart"]
    assert rows["redis_url"][1] == "redis://:***@127.0.0.1:6379/0?password=***"
    assert rows["bind"][1] == "127.0.0.1:6570"
    assert "hunter2" not in shown
    broken = hotfeast("config", "check", "--repo", ".", "--redis", "", HOTFEAST_CONFIG=str(file))
    assert "hunter2" not in broken.output


def test_config_schema() -> None:
    assert json.loads(hotfeast("config", "schema").stdout) == json.loads(json.dumps(json_schema()))


# ------------------------------------------------------------ changes


class Watched:
    """Settings of a file, and the watch over them."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.write(text)
        self.watch = ConfigWatch(self.read(), file, self.read)

    def write(self, text: str) -> None:
        self.file.write_text(f"repo: .\n{text}")

    def read(self) -> Settings:
        return read_configuration({}, {}, self.file).settings()


def test_a_change_of_the_file_is_noticed_once_it_stays(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfeast.server.config_watch.LOOK", 0.0)
    watched = Watched(file, "threads: 1\n")
    look = watched.watch.look
    assert look() is None
    watched.write("threads: 22\n")
    assert look() is None
    change = look()
    assert change is not None
    assert (change.settings.threads, change.names, change.workers) == (22, ("threads",), True)
    assert look() is None
    # Not valid: the settings before stay, and it is told, until it is valid again.
    watched.write("threads: none\n")
    assert [look(), look()] == [None, None]
    assert (watched.watch.valid, watched.watch.settings.threads) == (False, 22)
    watched.write("threads: 22\n# again\n")
    assert [look(), look()] == [None, None]
    assert watched.watch.valid
    file.unlink()
    assert [look(), look()] == [None, None]
    assert not watched.watch.valid


def test_what_needs_a_restart_stays(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(file, "threads: 1\nmonitor: false\n")
    watched.write("threads: 2\nmonitor: true\nmonitor_rate: 3\nbind: 127.0.0.1:1\n")
    change = watched.watch.read_again()
    assert change is not None
    assert change.names == ("threads",)
    assert change.settings == Settings(repo=file.parent, threads=2)
    assert "after a restart have changed: bind, monitor, monitor_window" in caplog.text
    assert watched.watch.read_again() is None
    assert caplog.text.count("after a restart") == 1


def test_what_counts_at_once_needs_no_new_workers(file: Path) -> None:
    watched = Watched(file, "log_level: info\n")
    watched.write("log_level: debug\nkeepalive_time: 9\n")
    change = watched.watch.read_again()
    assert change is not None
    assert not change.workers
    assert change.settings.connections.keepalive == 9
    assert {n for n, o in OPTIONS.items() if o.setting.applies is Applies.AT_ONCE} >= {
        "log_level", "keepalive_time", "drain",
    }  # fmt: skip
