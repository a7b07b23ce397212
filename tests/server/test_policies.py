"""Policies and tokens from the command line, Feast's permissions beside Feast's own judgement, and
addresses that nobody should listen on by mistake."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guarded
import pytest
import yaml
from feast import FeatureService, FeatureStore
from feast.errors import FeastPermissionError
from feast.feast_object import ALL_RESOURCE_TYPES
from feast.feature_view import FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.permissions.action import AuthzedAction
from feast.permissions.enforcer import enforce_policy
from feast.permissions.permission import Permission
from feast.permissions.policy import (
    CombinedGroupNamespacePolicy,
    GroupBasedPolicy,
    NamespaceBasedPolicy,
    RoleBasedPolicy,
)
from feast.permissions.user import User
from feast.stream_feature_view import StreamFeatureView
from guarded import bearer
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_cli
from secured import channel, gateway
from test_access import DENIED, OK, POLICY, asked, pushed, user, write_policy
from test_native import READ, call
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.security.exposure import check_exposure, is_loopback
from hotfeast.server.security.feast_permissions import allowed_by, read_permission
from hotfeast.server.security.principals import Principal
from hotfeast.server.security.tokens import hash_of, parse_tokens, read_tokens
from hotfeast.server.settings import TlsSettings

PUSH = "/hotfeast.serving.v1.Push/Push"


@pytest.fixture(scope="module")
def permitted(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The repository of `guarded.py`, with permissions in its registry."""
    read = [AuthzedAction.READ_ONLINE, AuthzedAction.DESCRIBE]
    scorers = RoleBasedPolicy(roles=["scorer"])
    return guarded.make_repository(
        tmp_path_factory.mktemp("permitted"), "permitted", redis_server.address,
        Permission("reco", FeatureService, ["reco_.*"], read, scorers),
        Permission("views", [FeatureView], ["visits|contact"], read, scorers),
        Permission("writers", [FeatureView], ["visits"], AuthzedAction.WRITE_ONLINE,
                   RoleBasedPolicy(roles=["writer"])),
    )  # fmt: skip


def hotfeast(*arguments: str, **options: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), **options)
    return result.exit_code, result.output


# ---------------------------------------------------------------- Feast's permissions


def tokens_of(folder: Path, **roles: list[str]) -> dict[str, str]:
    made = {name: f"hft_{name}_{'x' * 40}" for name in roles}
    said = [{"name": n, "sha256": hash_of(made[n]), "roles": r} for n, r in roles.items()]
    (folder / "tokens.yaml").write_text(yaml.safe_dump(said))
    return made


@pytest.mark.parametrize("mode", ["require", "suffice", "ignore"])
def test_permissions_of_the_registry(permitted: FeatureStore, tmp_path: Path, mode: str) -> None:
    tokens = tokens_of(tmp_path, scorer=["scorer"], writer=["writer"], nobody=[])
    grants = [
        {"to": ["token:nobody"], "do": ["read"], "feature_services": ["reco_v1"]},
        {"to": ["role:scorer"], "do": ["read"], "feature_services": ["reco_v1", "board"]},
        {"to": ["role:writer"], "do": ["push"], "feature_views": ["contact"]},
    ]
    auth = write_policy(tmp_path, grants=grants, roles={}, feast_permissions=mode)
    with (
        gateway(Settings(repo=Path(permitted.repo_path), port=0, auth=auth)) as made,
        channel(made.port, None) as plain,
    ):

        def may(who: str, method: str, request: bytes) -> bool:
            code = call(plain, method, request, metadata=bearer(tokens[who])).code
            assert code in (OK, DENIED)
            return code is OK

        found = {
            "granted and permitted": may("scorer", READ, user("reco_v1")),
            "permitted": may("scorer", READ, user("reco_v2")),
            "granted": may("scorer", READ, user("board")),
            "granted to another": may("nobody", READ, user("reco_v1")),
            "view permitted": may("scorer", READ, asked(["visits:count"])),
            "personal": may("scorer", READ, asked(["contact:email"])),
            "push permitted": may("writer", PUSH, pushed(push_source="visits_push")),
            "push not permitted": may("scorer", PUSH, pushed(feature_view="visits")),
        }
    by_mode = {
        "require": {"granted and permitted"},
        "suffice": {
            "granted and permitted", "permitted", "granted", "granted to another",
            "view permitted", "push permitted",
        },
        "ignore": {"granted and permitted", "granted", "granted to another"},
    }  # fmt: skip
    assert {what for what, allowed in found.items() if allowed} == by_mode[mode]


_names = st.sampled_from(["reco_v1", "board", "visits", "contact", "x"])
_words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2)
_policies = st.one_of(
    st.builds(RoleBasedPolicy, _words),
    st.builds(GroupBasedPolicy, _words),
    st.builds(NamespaceBasedPolicy, _words),
    st.builds(CombinedGroupNamespacePolicy, _words, _words),
)
_permissions = st.builds(
    Permission,
    st.just("p"),
    st.lists(st.sampled_from(ALL_RESOURCE_TYPES), max_size=3),
    st.lists(st.sampled_from(["reco_.*", "board", ".*", "v.*|contact", "(x"[1:]]), max_size=2),
    st.lists(st.sampled_from(list(AuthzedAction)), min_size=1, max_size=4),
    _policies,
)
_RESOURCES = {
    "feature_service": FeatureService,
    "feature_view": FeatureView,
    "stream_feature_view": StreamFeatureView,
    "on_demand_feature_view": OnDemandFeatureView,
}


@settings(max_examples=200, deadline=None)
@given(
    permissions=st.lists(_permissions, min_size=1, max_size=3),
    kind=st.sampled_from(sorted(_RESOURCES)),
    name=_names,
    action=st.sampled_from(list(AuthzedAction)),
    roles=_words,
    groups=_words,
    namespaces=_words,
)
def test_permissions_are_judged_as_feast_does(
    permissions: list[Permission],
    kind: str,
    name: str,
    action: AuthzedAction,
    roles: list[str],
    groups: list[str],
    namespaces: list[str],
) -> None:
    resource: Any = object.__new__(_RESOURCES[kind])
    resource.name = name
    try:
        theirs = bool(
            enforce_policy(permissions, User("u", roles, groups, namespaces), [resource], [action])
        )
    except FeastPermissionError:
        theirs = False
    ours = allowed_by(
        [read_permission(each.to_proto().SerializeToString()) for each in permissions],
        Principal("jwt", "u", ("u",), tuple(roles), tuple(groups), tuple(namespaces)),
        kind, name, {}, action.name,
    )  # fmt: skip
    assert ours == theirs


def test_required_tags_restrict() -> None:
    """Feast looks for them where its definitions have none, so that they never do."""
    made = Permission(
        "tagged", FeatureView, [], AuthzedAction.READ_ONLINE, RoleBasedPolicy(["a"]),
        required_tags={"team": "ads"},
    )  # fmt: skip
    permission = read_permission(made.to_proto().SerializeToString())
    somebody = Principal("jwt", "u", ("u",), ("a",))
    for tags, allowed in (
        ({"team": "ads", "x": "y"}, True),
        ({"team": "other"}, False),
        ({}, False),
    ):
        assert (
            allowed_by([permission], somebody, "feature_view", "v", tags, "READ_ONLINE") is allowed
        )


def test_permissions_that_cannot_be_read_allow_nobody(caplog: pytest.LogCaptureFixture) -> None:
    made = Permission(
        "broken", FeatureView, ["(x"], AuthzedAction.READ_ONLINE, RoleBasedPolicy(["a"])
    )
    permission = read_permission(made.to_proto().SerializeToString())
    somebody = Principal("jwt", "u", ("u",), ("a",))
    assert not allowed_by([permission], somebody, "feature_view", "x", {}, "READ_ONLINE")
    assert "'broken' allows nobody" in caplog.text


# ---------------------------------------------------------------- the command line


def test_tokens_are_made_and_entered(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    arguments = ("token", "new", "scorer", "--file", str(file), "--role", "ml", "--group", "g")
    code, said = hotfeast(*arguments, "--expires", "2100-01-01")
    assert code == 0
    token = said.splitlines()[-1]
    assert re.fullmatch(r"hft_[\w-]{43}", token)
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text()
    code, other = hotfeast("token", "new", "other", "--file", str(file))
    assert code == 0
    found = read_tokens(file)[0]
    verified = found.find(token.encode())
    assert verified is not None
    assert verified.principal == Principal("token", "scorer", ("scorer",), ("ml",), ("g",))
    assert verified.ends == 4102444800.0
    assert found.find(other.splitlines()[-1].encode()) is not None
    assert found.find(token.encode() + b"x") is None
    assert hotfeast("token", "hash", input=f"{token}\n") == (0, f"{hash_of(token)}\n")
    for wrong, why in (
        (("token", "new", "scorer", "--file", str(file)), "has a token named 'scorer' already"),
        (("token", "new", "", "--file", str(file)), "name: String should have at least 1"),
        (("token", "new", "x", "--file", str(tmp_path / "no" / "file")), "cannot be written"),
        (("token", "hash"), "at least 32 characters"),
    ):
        code, said = hotfeast(*wrong, input="short")
        assert (code, why in " ".join(said.split())) == (2, True), said
    assert hotfeast(*arguments, "--expires", "2001-01-01")[0] == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "not valid YAML, line 1"),
        ("hft_secret", "Input should be a valid list"),
        ("- {name: a, sha256: hft_secret}", r"\[0\]\.sha256: String should match"),
        ("- {name: a, token: hft_secret}", r"\[0\]\.token: is unknown"),
        (f"- {{name: a, sha256: {'a' * 64}}}\n- {{name: a, sha256: {'b' * 64}}}", r"\[1\]\.name"),
        (f"- {{name: a, sha256: {'a' * 64}}}\n- {{name: b, sha256: {'a' * 64}}}", r"\[1\]\.sha256"),
    ],
)
def test_files_of_tokens_that_are_not_valid(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_tokens(text, Path("tokens.yaml"))
    assert "hft_secret" not in str(error.value)


def test_a_policy_is_checked_and_asked(permitted: FeatureStore, tmp_path: Path) -> None:
    tokens_of(tmp_path, scorer=["scorer"], mailer=[], writer=[], admin=[])
    auth = write_policy(tmp_path, feast_permissions="ignore")
    where = ("--auth", str(auth), "--repo", str(permitted.repo_path))
    code, said = hotfeast("auth", "check", *where)
    assert code == 0
    assert "7 grants, 1 roles, 4 tokens, 0 keys of an issuer, 3 permissions" in said
    for asked_for, answer in (
        (("token:scorer", "read", "board"), "no: the grant 'read' on feature service 'board'"),
        (("token:admin", "read", "reco_v1"), "yes"),
        (("token:admin", "read", "mailing"), "with 'pii: true'"),
        (("token:mailer", "read", "contact:email,contact:country"), "yes"),
        (("certificate:scorer.test", "read", "visits:count"), "yes"),
        (("jwt:ada", "read", "reco_v2", "--role", "ml-x"), "yes"),
        (("jwt:ada", "read", "reco_v2"), "no: the grant 'read' on feature service 'reco_v2'"),
        (("anonymous", "read", "reco_v2"), "no: the grant"),
        (("token:writer", "push", "visits_push"), "yes"),
        (("token:writer", "push", "contact"), "no: the grant 'push' on feature view 'contact'"),
        (("token:admin", "traffic"), "yes"),
        (("token:writer", "traffic"), "no: the grant 'traffic'"),
        (("token:mailer", "describe", "contact"), "yes"),
        (("token:mailer", "describe", "board"), "no: a grant or permission for 'describe'"),
    ):
        code, said = hotfeast("auth", "can", *asked_for, *where)
        assert answer in said, asked_for
        assert code == (0 if answer == "yes" else 1)
    for wrong, why in (
        (("token:none", "read", "reco_v1"), "has none named 'none'"),
        (("ada", "read", "reco_v1"), "'ada' is nobody"),
        (("token:admin", "write", "reco_v1"), "'write' is no action"),
        (("token:admin", "read"), "name it"),
        (("token:admin", "read", "reco_v9"), "no feature service 'reco_v9'"),
        (("token:admin", "describe", "reco_v9"), "no feature service or view"),
    ):
        code, said = hotfeast("auth", "can", *wrong, *where)
        assert (code, why in said) == (2, True), said
    grants = [*POLICY["grants"], {"to": ["*"], "do": ["read"], "feature_services": ["rekko_*"]}]
    write_policy(tmp_path, grants=grants)
    code, said = hotfeast("auth", "check", *where)
    assert code == 1
    assert "grants[7].feature_services[0]: no feature service matches 'rekko_*'" in said


# ---------------------------------------------------------------- addresses


def exposed() -> Iterator[tuple[dict[str, Any], str]]:
    tls = TlsSettings(Path("a"), Path("b"))
    mutual = tls._replace(client_ca=Path("c"))
    auth = {"auth": Path("access.yaml")}
    yield {}, "--allow-unauthenticated"
    yield {"tls": tls}, "--allow-unauthenticated"
    yield {"tls": mutual._replace(client_auth="optional")}, "--allow-unauthenticated"
    yield {"tls": mutual}, ""
    yield {"allow_unauthenticated": True}, ""
    yield auth, "--allow-plaintext"
    yield auth | {"tls": tls}, ""
    yield auth | {"allow_plaintext": True}, ""


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "192.0.2.1", "127.0.0.1", "[::1]", "localhost"]
)
def test_addresses_that_others_reach_have_to_be_meant(host: str) -> None:
    others = host in ("0.0.0.0", "[::]", "192.0.2.1")
    assert is_loopback(host) is not others
    for more, why in exposed():
        made = Settings(repo=Path("."), host=host, **more)
        if why and others:
            with pytest.raises(StartFailure, match=why):
                check_exposure(made)
        else:
            check_exposure(made)


def test_serve_refuses_them() -> None:
    result = run_cli("serve", "--repo", "nowhere", "--bind", "0.0.0.0:0")
    assert result.returncode == 2
    assert "give --auth FILE, or --tls-client-ca FILE" in result.stderr
