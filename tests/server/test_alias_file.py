"""The file of aliases, and the record of its changes."""

import json
import multiprocessing
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.server.errors import RequestFailure
from hotfeast.server.traffic.aliases import (
    Alias,
    AliasError,
    Shadow,
    read_aliases,
    write_aliases,
)
from hotfeast.server.traffic.changes import EDITED, REMOVED, ROLLED_BACK, SET
from hotfeast.server.traffic.store import AliasStore, Author

ME = Author("me", "ipv4:127.0.0.1:1", "because")


def anything(_: Alias) -> None:
    """Every alias is valid."""


def nothing(alias: Alias) -> None:
    raise AliasError(f"alias {alias.name!r} is not valid")


def alias(name: str = "a", **shares: float) -> Alias:
    return Alias(name, tuple(shares.items()))


@pytest.fixture
def store(tmp_path: Path) -> AliasStore:
    path = tmp_path / "aliases.yaml"
    path.write_text("a: {v1: 90, v2: 10}\n")
    made = AliasStore(path)
    made.load(anything)
    return made


def test_both_forms() -> None:
    found = read_aliases(
        """
        short: {v1: 90, v2: 9.5, view@v3: "0.5%"}
        long:
          targets: {v1: 100}
          sticky_by: user_id
          shadow: {target: v2, share: 5%}
        keys: {targets: {v1: 100}, sticky_by: [a, b]}
        targets: {targets: 40, shadow: 60}
        """
    )
    assert found == {
        "short": Alias("short", (("v1", 90), ("v2", 9.5), ("view@v3", 0.5))),
        "long": Alias("long", (("v1", 100),), ("user_id",), Shadow("v2", 5)),
        "keys": Alias("keys", (("v1", 100),), ("a", "b")),
        # Names of the long form may be those of services.
        "targets": Alias("targets", (("targets", 40), ("shadow", 60))),
    }


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_no_aliases(text: str) -> None:
    assert read_aliases(text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {v1: 90, v2: 20}", "alias 'a': the shares of its targets add up to 110, not to 100"),
        ("a: {}", "alias 'a': the shares of its targets add up to 0, not to 100"),
        ("a: {v1: -1, v2: 101}", "alias 'a': target 'v1' is -1; it must be 0 to 100 percent"),
        ("a: {v1: true}", "alias 'a': target 'v1' is True; it must be 0 to 100 percent"),
        ("a: {v1: .nan}", "alias 'a': target 'v1' is nan; it must be"),
        ("a: {v1: half}", "alias 'a': target 'v1' is 'half'; it must be"),
        ("a: {1: 100}", "alias 'a': target 1 must be a feature service's name"),
        ("a: v1", "alias 'a' must have targets with shares, such as"),
        ("1: {v1: 100}", "alias 1: a name must be printable text; quote it"),
        ("'': {v1: 100}", "alias '': a name must be printable text"),
        ("[a]", "it must have a mapping of aliases"),
        ("a: {", "it is not valid YAML"),
        ("a: {v1: 100}\na: {v2: 100}", "'a' is there twice, in the mapping of line 1"),
        ("a: {v1: 50, v1: 50}", "'v1' is there twice, in the mapping of line 1"),
        ("a: {targets: {v1: 100}, shadows: {}}", "alias 'a': 'shadows' is unknown; use targets"),
        (
            "a: {v1: 100, shadow: {target: v2, share: 5}}",
            "alias 'a': with shadow or sticky_by the shares go under 'targets'",
        ),
        ("a: {targets: {v1: 100}, shadow: v2}", "alias 'a': shadow must have a target and a share"),
        (
            "a: {targets: {v1: 100}, shadow: {target: v2, share: 101}}",
            "alias 'a': the shadow's share is 101; it must be",
        ),
        ("a: {targets: {v1: 100}, sticky_by: 5}", "alias 'a': sticky_by must be a join key's name"),
        ("a: {targets: {v1: 100}, sticky_by: [k, k]}", "alias 'a': sticky_by has a join key twice"),
    ],
)
def test_what_is_not_valid_is_named(text: str, message: str) -> None:
    with pytest.raises(AliasError) as failed:
        read_aliases(text)
    assert str(failed.value).startswith(message)


names = st.text(min_size=1, max_size=8).filter(str.isprintable)


@given(
    st.dictionaries(names, st.tuples(names, names, st.integers(0, 100), st.booleans()), max_size=4)
)
def test_what_is_written_is_read(made: dict[str, tuple[str, str, int, bool]]) -> None:
    aliases = {
        name: Alias(
            name,
            ((one, float(share)), (other, 100.0 - share)) if one != other else ((one, 100.0),),
            ("user_id",) if long else (),
            Shadow(other, share / 8) if long else None,
        )
        for name, (one, other, share, long) in made.items()
    }
    assert read_aliases(write_aliases(aliases)) == aliases


def test_changes_are_in_the_file_and_in_the_record(store: AliasStore) -> None:
    store.set(alias(v1=80, v2=20), 1, ME, anything)
    store.set(alias("b", v2=100), 0, ME, anything)
    found = AliasStore(store.path).load(nothing)
    assert found.aliases == {"a": alias(v1=80, v2=20), "b": alias("b", v2=100)}
    assert [(c.alias, c.revision, c.action) for c in found.record.changes] == [
        ("a", 1, EDITED), ("a", 2, SET), ("b", 1, SET)
    ]  # fmt: skip
    change = found.record.changes[1]
    assert (change.who, change.peer, change.reason) == ("me", "ipv4:127.0.0.1:1", "because")
    assert change.old == {"targets": {"v1": 90, "v2": 10}}
    assert change.new == {"targets": {"v1": 80, "v2": 20}}
    assert json.loads(store.log_path.read_text().splitlines()[2])["alias"] == "b"
    assert not [path for path in store.path.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("expected", [0, 2])
def test_a_change_that_somebody_else_has_overtaken_is_refused(
    store: AliasStore, expected: int
) -> None:
    with pytest.raises(RequestFailure, match="is at revision 1, not") as failed:
        store.set(alias(v2=100), expected, ME, anything)
    assert failed.value.code is grpc.StatusCode.ABORTED
    with pytest.raises(RequestFailure, match="is at revision 0, not 1"):
        store.set(alias("new", v2=100), 1, ME, anything)
    assert store.load(nothing).aliases == {"a": alias(v1=90, v2=10)}


def test_a_change_beside_an_edit_that_nobody_has_seen_is_refused(store: AliasStore) -> None:
    store.path.write_text("a: {v1: 70, v2: 30}\n")
    with pytest.raises(RequestFailure, match="has just been edited") as failed:
        store.set(alias(v2=100), None, ME, anything)
    assert failed.value.code is grpc.StatusCode.ABORTED
    assert store.load(anything).record.revision("a") == 2


def test_a_file_that_is_not_valid_is_not_written_over(store: AliasStore) -> None:
    store.path.write_text("a: {v1: 99}\n")
    with pytest.raises(RequestFailure, match="first: alias 'a': the shares") as failed:
        store.set(alias("b", v2=100), None, ME, anything)
    assert failed.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert store.path.read_text() == "a: {v1: 99}\n"


def test_what_is_not_valid_changes_nothing(store: AliasStore) -> None:
    before = store.path.read_bytes(), store.log_path.read_bytes()
    with pytest.raises(AliasError):
        store.set(alias(v2=100), None, ME, nothing)
    store.path.write_text("a: {v3: 100}\n")
    with pytest.raises(AliasError):
        store.load(nothing)
    assert store.log_path.read_bytes() == before[1]


def test_rollback_goes_to_the_state_before_or_to_a_revision(store: AliasStore) -> None:
    for share in (20, 50, 100):
        store.set(alias(v1=100 - share, v2=share), None, ME, anything)
    found = store.roll_back("a", None, 4, ME, anything)
    assert found.aliases["a"] == alias(v1=50, v2=50)
    assert found.record.changes[-1].action == ROLLED_BACK
    # A rollback is a change, too.
    assert store.roll_back("a", None, 5, ME, anything).aliases["a"] == alias(v1=0, v2=100)
    assert store.roll_back("a", 1, 6, ME, anything).aliases["a"] == alias(v1=90, v2=10)
    assert store.load(nothing).record.revision("a") == 7


def test_there_must_be_something_to_go_back_to(store: AliasStore) -> None:
    for revision, words in ((None, "before the last change"), (9, "at revision 9")):
        with pytest.raises(RequestFailure, match=words) as failed:
            store.roll_back("a", revision, None, ME, anything)
        assert failed.value.code is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(RequestFailure, match="no alias 'aa'; did you mean 'a'") as failed:
        store.roll_back("aa", None, None, ME, anything)
    assert failed.value.code is grpc.StatusCode.NOT_FOUND
    store.set(alias(v2=100), None, ME, anything)
    with pytest.raises(AliasError):
        store.roll_back("a", None, None, ME, nothing)


def test_an_alias_that_was_removed_comes_back_by_a_rollback(store: AliasStore) -> None:
    assert store.remove("a", 1, ME).aliases == {}
    with pytest.raises(RequestFailure, match="no alias 'a'"):
        store.remove("a", None, ME)
    found = store.roll_back("a", None, 0, ME, anything)
    assert found.aliases == {"a": alias(v1=90, v2=10)}
    assert [c.action for c in found.record.of("a")] == [EDITED, REMOVED, ROLLED_BACK]


def test_edits_are_recorded_once_however_many_look(store: AliasStore) -> None:
    store.path.write_text("b: {v1: 100}\n")
    for _ in range(3):
        found = AliasStore(store.path).load(anything)
    assert [(c.alias, c.revision, c.new is None) for c in found.record.changes[1:]] == [
        ("a", 2, True), ("b", 1, False)
    ]  # fmt: skip


def test_what_has_been_valid_is_not_judged_again(store: AliasStore) -> None:
    """So that a gateway starts again although a target has vanished meanwhile."""
    assert store.load(nothing).aliases == {"a": alias(v1=90, v2=10)}


def test_a_line_that_was_cut_takes_nothing_else_with_it(store: AliasStore) -> None:
    with store.log_path.open("ab") as log:
        log.write(b'{"time": "2026-0')
    store.set(alias(v2=100), 1, ME, anything)
    store.set(alias(v1=100), 2, ME, anything)
    assert store.load(nothing).record.revision("a") == 3


def test_a_file_without_a_record_is_read_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text("a: {v1: 90, v2: 10}\n")
    store = AliasStore(path)
    store.log_path.mkdir()
    assert store.load(anything).aliases == {"a": alias(v1=90, v2=10)}
    with pytest.raises(RequestFailure, match="cannot be written") as failed:
        store.set(alias(v2=100), None, ME, anything)
    assert failed.value.code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "aliases.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AliasError, match="it cannot be read"):
        AliasStore(path).load(anything)


def test_a_link_and_the_mode_of_the_file_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "there.yaml", tmp_path / "aliases.yaml"
    target.write_text("a: {v1: 100}\n")
    target.chmod(0o640)
    link.symlink_to(target)
    store = AliasStore(link)
    store.load(anything)
    store.set(alias(v2=100), 1, ME, anything)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert read_aliases(target.read_text()) == {"a": alias(v2=100)}


def _change_often(path: Path, name: str, times: int) -> None:
    store = AliasStore(path)
    for time in range(times):
        store.set(alias(name, v1=time, v2=100 - time), None, ME, anything)


def test_no_change_of_several_processes_is_lost(store: AliasStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_change_often, args=(store.path, name, 20)) for name in "abc"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = store.load(nothing)
    assert found.aliases == {name: alias(name, v1=19, v2=81) for name in "abc"}
    assert [found.record.revision(name) for name in "abc"] == [21, 20, 20]


def test_a_shadow_counts_from_when_it_was_set(store: AliasStore) -> None:
    shadowed = Alias("a", (("v1", 100.0),), (), Shadow("v2", 5.0))
    store.set(shadowed, None, ME, anything)
    more = Alias("a", (("v1", 50.0), ("v3", 50.0)), (), Shadow("v2", 50.0))
    found = store.set(more, None, ME, anything)
    assert found.record.shadowed_since(found.aliases["a"]) == 2
    store.set(alias(v1=100), None, ME, anything)
    found = store.set(shadowed, None, ME, anything)
    assert found.record.shadowed_since(found.aliases["a"]) == 5
