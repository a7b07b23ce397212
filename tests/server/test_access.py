"""Who may do what, at both servers: tokens, JWTs, certificates, grants, and what is told of it."""

import base64
import hmac
import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import guarded
import jwt
import pushing
import pyarrow as pa
import pytest
import trustme
import yaml
from feast import FeatureStore
from grpc_reflection.v1alpha import reflection_pb2
from guarded import Issuer, bearer, jwt_rules
from processes import eventually
from prometheus_client import CollectorRegistry
from secured import CHECK, NAME, Pair, RawClient, channel, gateway
from test_native import READ, Answer, call, read_request

from hotfeast.clients import FeatureClient, NotFound, PermissionDenied, Tls, Unauthenticated
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.security.keys import Keys, KeysPending
from hotfeast.server.security.refusals import Reason, Refusals
from hotfeast.server.security.tokens import hash_of
from hotfeast.server.settings import TlsSettings, TrafficSettings
from hotfeast.serving.v1 import push_pb2, serving_pb2, traffic_pb2

SERVING = "/hotfeast.serving.v1.FeatureServing"
PUSH = "/hotfeast.serving.v1.Push/Push"
STREAM = "/hotfeast.serving.v1.Push/PushStream"
READ_STREAM = f"{SERVING}/GetOnlineFeaturesStream"
LIST_ALIASES = "/hotfeast.serving.v1.Traffic/ListAliases"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
OK = grpc.StatusCode.OK

TOKENS = {name: f"hft_{name}_{'x' * 40}" for name in ("scorer", "mailer", "writer", "admin", "old")}
POLICY: dict[str, Any] = {
    "tokens": "tokens.yaml",
    "roles": {"scorers": ["token:scorer", "role:ml-*", "certificate:scorer.test"]},
    "grants": [
        {"to": ["scorers"], "do": ["read"], "feature_services": ["reco_*"]},
        {"to": ["scorers"], "do": ["read"], "feature_views": ["visits"]},
        {
            "to": ["token:mailer"],
            "do": ["read"],
            "feature_views": ["contact", "domain"],
            "pii": True,
        },
        {"to": ["token:mailer"], "do": ["read"], "feature_services": ["presences"]},
        {"to": ["token:writer"], "do": ["push"], "feature_views": ["visits"]},
        {"to": ["token:admin"], "do": ["read", "push", "describe", "traffic"]},
        {"to": ["group:platform"], "do": ["describe"], "projects": ["elsewhere"]},
    ],
}


def write_tokens(folder: Path, **expires: str) -> Path:
    said = [
        {"name": name, "sha256": hash_of(token)}
        | ({"expires": expires[name]} if name in expires else {})
        for name, token in TOKENS.items()
    ]
    (folder / "tokens.yaml").write_text(yaml.safe_dump(said))
    return folder


def write_policy(folder: Path, **more: Any) -> Path:
    path = folder / "access.yaml"
    path.with_suffix(".new").write_text(yaml.safe_dump(POLICY | more))
    path.with_suffix(".new").replace(path)
    return path


def user(service: str) -> bytes:
    return read_request(service, {"user_id": ("int64_val", [1])})


def asked(features: list[str], **context: Any) -> bytes:
    made = serving_pb2.GetOnlineFeaturesRequest(features=serving_pb2.FeatureList(val=features))
    made.entities["user_id"].CopyFrom(pushing.column("int64_val", [1]))
    for name, value in context.items():
        made.request_context[name].CopyFrom(pushing.column("int64_val", [value]))
    return bytes(made.SerializeToString())


def pushed(**where: Any) -> bytes:
    columns = {"user_id": ("int64_val", [5]), "count": ("int64_val", [1])}
    return bytes(pushing.request(columns, [guarded.NOW], **where).SerializeToString())


class Guarded(NamedTuple):
    """A gateway with a policy."""

    gateway: Gateway
    channel: grpc.Channel
    folder: Path

    def as_(self, who: str, method: str, *requests: bytes) -> Answer:
        """A call of somebody with a token."""
        return call(self.channel, method, *requests, metadata=bearer(TOKENS[who]))

    def read(self, who: str, service: str) -> Answer:
        return self.as_(who, READ, user(service))


@pytest.fixture(scope="module", params=["native", "grpcio"])
def closed(
    request: pytest.FixtureRequest,
    private: FeatureStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guarded]:
    folder = write_tokens(tmp_path_factory.mktemp("access"), old="2020-01-01T00:00:00Z")
    aliases = folder / "aliases.yaml"
    aliases.write_text("reco_alias: {reco_v1: 100}\nboard_alias: {board: 100}\n")
    settings = Settings(
        repo=Path(private.repo_path), port=0, server=request.param, reflection=True,
        auth=write_policy(folder), traffic=TrafficSettings(aliases),
        channelz=request.param == "native",
    )  # fmt: skip
    with gateway(settings) as made, channel(made.port, None) as plain:
        yield Guarded(made, plain, folder)


# ---------------------------------------------------------------- who calls


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ((), "who calls is not known"),
        ((("authorization", ""),), "must be 'Bearer TOKEN'"),
        ((("authorization", "Basic x"),), "must be 'Bearer TOKEN'"),
        ((("authorization", "Bearer"),), "must be 'Bearer TOKEN'"),
        (bearer(""), "it is not known"),
        (bearer("x" * 40), "it is not known"),
        (bearer(TOKENS["scorer"][:-1]), "it is not known"),
        (bearer(TOKENS["scorer"]) * 2, "it is not known"),
        (bearer(TOKENS["old"]), "it has expired"),
        (bearer("x" * 9000), "longer than 8192 bytes"),
        (bearer("a.b.c"), "it is not known"),
        ((("x-authorization", f"Bearer {TOKENS['scorer']}"),), "who calls is not known"),
        ((("hotfeast-identity-bin", b'["scorer.test"]'),), "who calls is not known"),
        ((("hotfeast-address", "unix:"),), "who calls is not known"),
    ],
)
@pytest.mark.parametrize(
    "method", [READ, f"{SERVING}/ListFeatureViews", PUSH, STREAM, LIST_ALIASES, REFLECT]
)
def test_strangers_are_not_let_in(closed: Guarded, method: str, metadata: Any, why: str) -> None:
    requests = {
        READ: user("reco_v1"),
        PUSH: pushed(feature_view="visits"),
        STREAM: pushed(feature_view="visits"),
        REFLECT: reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(),
    }
    answer = call(closed.channel, method, requests.get(method, b""), metadata=metadata)
    if method == STREAM:
        [said] = answer.messages
        error = push_pb2.PushResponse.FromString(said).error
        assert (error.code, why in error.message) == (UNKNOWN.value[0], True)
        return
    assert answer.code is UNKNOWN
    assert why in answer.details
    assert "x" * 40 not in answer.details


def test_health_is_for_everybody(closed: Guarded) -> None:
    assert call(closed.channel, CHECK, b"").messages == [b"\x08\x01"]


def test_the_scheme_is_of_any_case(closed: Guarded) -> None:
    for scheme in ("bearer", "BEARER"):
        metadata = (("authorization", f"{scheme} {TOKENS['scorer']}"),)
        assert call(closed.channel, READ, user("reco_v1"), metadata=metadata).code is OK


# ---------------------------------------------------------------- what they may do


def test_grants_by_feature_service(closed: Guarded) -> None:
    assert closed.read("scorer", "reco_v1").code is OK
    assert closed.read("scorer", "reco_v2").code is OK
    for service in ("mailing", "board", "no_such", "reco"):
        answer = closed.read("scorer", service)
        assert answer.code is DENIED
        assert answer.details == (
            f"token:scorer lacks the grant 'read' on feature service {service!r}"
        )
    # What is granted may be known.
    answer = closed.read("scorer", "reco_v3")
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert answer.details == "no feature service 'reco_v3'"
    assert closed.read("admin", "reco_v3").details.startswith("no feature service 'reco_v3'; did")
    for _ in range(3):
        assert closed.read("mailer", "reco_v1").code is DENIED


def test_batches_on_a_stream_are_granted_each(closed: Guarded) -> None:
    rows = pa.table({"user_id": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)

    def batch(service: str) -> bytes:
        made: Any = serving_pb2.GetOnlineFeaturesStreamRequest(
            arrow_ipc=sink.getvalue().to_pybytes()
        )
        made.read.request.feature_service = service
        return bytes(made.SerializeToString())

    def codes(*services: str, who: str) -> list[int]:
        said = closed.as_(who, READ_STREAM, *map(batch, services)).messages
        answers = map(serving_pb2.GetOnlineFeaturesStreamResponse.FromString, said)
        return [answer.error.code for answer in answers]

    denied, unknown = DENIED.value[0], UNKNOWN.value[0]
    assert codes("reco_v1", "board", "reco_alias", who="scorer") == [0, denied, 0]
    assert codes("board", who="admin") == [0]
    assert codes("reco_v1", who="mailer") == [denied]
    assert codes("reco_v1", who="old") == [unknown]
    [said] = call(closed.channel, READ_STREAM, batch("reco_v1")).messages
    assert serving_pb2.GetOnlineFeaturesStreamResponse.FromString(said).error.code == unknown


def test_grants_by_view(closed: Guarded) -> None:
    assert closed.as_("scorer", READ, asked(["visits:count"])).code is OK
    for features, view in (
        (["contact:country"], "contact"),
        (["visits:count", "secret_plans:margin"], "secret_plans"),
        (["visits:count", "nowhere:margin"], "nowhere"),
        (["secret_plans:nothing"], "secret_plans"),
    ):
        answer = closed.as_("scorer", READ, asked(features))
        assert answer.code is DENIED
        assert answer.details == f"token:scorer lacks the grant 'read' on feature view {view!r}"
    # All views of a service are as good as the service.
    assert closed.read("mailer", "mailing").code is OK
    assert closed.as_("mailer", READ, asked(["contact:email", "contact:country"])).code is OK
    answer = closed.as_("scorer", READ, asked(["visits:nothing"]))
    assert answer.code is grpc.StatusCode.NOT_FOUND


def test_personal_data_needs_a_grant_that_says_so(closed: Guarded) -> None:
    for service in ("mailing", "domains"):
        answer = closed.read("admin", service)
        assert answer.code is DENIED
        assert answer.details == (
            f"token:admin lacks the grant 'read' on feature service {service!r}, with 'pii: true'"
        )
    assert closed.as_("admin", READ, asked(["contact:email"])).code is DENIED
    assert closed.as_("admin", READ, asked(["contact:country"])).code is OK
    assert closed.as_("admin", READ, asked(["domain:domain"], extra=1)).code is DENIED
    assert closed.as_("mailer", READ, asked(["domain:domain"], extra=1)).code is OK
    # What is said to be nobody's is for those who may read it.
    assert closed.read("mailer", "presences").code is OK
    assert closed.read("admin", "presences").code is OK


def test_aliases_are_granted_by_their_name_or_their_target(closed: Guarded) -> None:
    assert closed.read("scorer", "reco_alias").code is OK
    assert closed.read("admin", "board_alias").code is OK
    answer = closed.read("scorer", "board_alias")
    assert answer.code is DENIED
    assert answer.details.endswith("on feature service 'board_alias'")
    assert "board'" not in str(answer.trailing)


def test_pushes(closed: Guarded) -> None:
    assert closed.as_("writer", PUSH, pushed(push_source="visits_push")).code is OK
    assert closed.as_("writer", PUSH, pushed(feature_view="visits")).code is OK
    [said] = closed.as_("writer", STREAM, pushed(feature_view="visits")).messages
    assert not push_pb2.PushResponse.FromString(said).HasField("error")
    for where, what in (
        ({"feature_view": "contact"}, "feature view 'contact'"),
        ({"feature_view": "no_such"}, "feature view 'no_such'"),
        ({"push_source": "no_such"}, "push source 'no_such'"),
    ):
        answer = closed.as_("writer", PUSH, pushed(**where))
        assert (answer.code, answer.details) == (
            DENIED, f"token:writer lacks the grant 'push' on {what}",
        )  # fmt: skip
        [said] = closed.as_("writer", STREAM, pushed(**where)).messages
        assert push_pb2.PushResponse.FromString(said).error.code == DENIED.value[0]
    assert closed.as_("scorer", PUSH, pushed(feature_view="visits")).code is DENIED
    assert closed.as_("scorer", PUSH, pushed(push_source="visits_push")).code is DENIED
    for where in ({"feature_view": "no_such"}, {"push_source": "no_such"}):
        assert closed.as_("admin", PUSH, pushed(**where)).code is grpc.StatusCode.NOT_FOUND


def test_streams_of_reads(closed: Guarded) -> None:
    """Each batch is judged as a request of its own."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("user_id", pa.int64())])) as writer:
        writer.write_table(pa.table({"user_id": [1]}))
    batches = [
        serving_pb2.GetOnlineFeaturesStreamRequest(
            batch=number, arrow_ipc=sink.getvalue(), read={"request": {"feature_service": service}}
        ).SerializeToString()
        for number, service in enumerate(("reco_v1", "board", "no_such"))
    ]

    def codes(metadata: Any) -> list[int]:
        answer = call(
            closed.channel, f"{SERVING}/GetOnlineFeaturesStream", *batches, metadata=metadata
        )
        found = map(serving_pb2.GetOnlineFeaturesStreamResponse.FromString, answer.messages)
        return [said.error.code for said in sorted(found, key=lambda said: said.batch)]

    assert codes(bearer(TOKENS["scorer"])) == [0, DENIED.value[0], DENIED.value[0]]
    assert codes(bearer(TOKENS["admin"])) == [0, 0, grpc.StatusCode.NOT_FOUND.value[0]]
    for metadata in ((), bearer("x" * 40), (("hotfeast-identity-bin", b'["scorer.test"]'),)):
        assert codes(metadata) == [UNKNOWN.value[0]] * 3


def test_lists_show_what_may_be_described(closed: Guarded) -> None:
    def listed(who: str) -> tuple[set[str], set[str]]:
        [services] = closed.as_(who, f"{SERVING}/ListFeatureServices", b"").messages
        [views] = closed.as_(who, f"{SERVING}/ListFeatureViews", b"").messages
        found = serving_pb2.ListFeatureServicesResponse.FromString(services).feature_services
        shown = serving_pb2.ListFeatureViewsResponse.FromString(views).feature_views
        return {s.name for s in found}, {v.name for v in shown}

    assert listed("scorer") == ({"reco_v1", "reco_v2"}, {"visits"})
    assert listed("mailer") == ({"presences"}, {"contact", "domain"})
    assert listed("writer") == (set(), set())
    everything = {s.name for s in guarded.services}, {v.name for v in guarded.views}
    assert listed("admin") == everything


def test_traffic_and_reflection(closed: Guarded) -> None:
    answer = closed.as_("scorer", LIST_ALIASES, b"")
    assert answer.details == "token:scorer lacks the grant 'traffic'"
    request = traffic_pb2.SetAliasRequest(
        alias={"name": "x", "targets": [{"name": "board", "share": 100}]}
    )
    changed = "/hotfeast.serving.v1.Traffic/SetAlias"
    assert closed.as_("scorer", changed, request.SerializeToString()).code is DENIED
    assert closed.as_("admin", changed, request.SerializeToString()).code is OK
    [said] = closed.as_("admin", "/hotfeast.serving.v1.Traffic/ListAliasChanges", b"").messages
    changes = traffic_pb2.ListAliasChangesResponse.FromString(said).changes
    assert [c.who for c in changes if c.alias == "x"] == ["token:admin"]

    def services(who: str) -> set[str]:
        ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        [said] = closed.as_(who, REFLECT, ask).messages
        found = reflection_pb2.ServerReflectionResponse.FromString(said)
        return {s.name for s in found.list_services_response.service}

    assert closed.as_("writer", REFLECT).code is DENIED
    hidden = {"hotfeast.serving.v1.Push", "hotfeast.serving.v1.Traffic"}
    assert services("admin") - services("scorer") == hidden


def test_channelz(closed: Guarded, private: FeatureStore) -> None:
    method = "/grpc.channelz.v1.Channelz/GetServers"
    settings = closed.gateway.settings
    if settings.server == "native":
        assert call(closed.channel, method, b"").code is UNKNOWN
        assert closed.as_("scorer", method, b"").code is DENIED
        assert closed.as_("admin", method, b"").code is OK
    else:
        with pytest.raises(StartFailure, match="--server native only"):
            Gateway(replace(settings, channelz=True))


# ---------------------------------------------------------------- certificates


def test_certificates_say_who_calls(
    private: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, path = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    mine = Pair.write(tmp_path / "mine", ca.issue_cert("scorer.test"))
    other = Pair.write(tmp_path / "other", ca.issue_cert("other.test", common_name="scorer"))
    auth = write_policy(write_tokens(tmp_path))
    for server in ("native", "grpcio"):
        settings = Settings(
            repo=Path(private.repo_path), port=0, server=server, auth=auth,
            tls=TlsSettings(pair.certificate, pair.key, path),
        )  # fmt: skip
        with gateway(settings) as made:
            with channel(made.port, mine.tls(path)) as encrypted:
                assert call(encrypted, READ, user("reco_v1")).code is OK
                answer = call(encrypted, READ, user("board"))
                assert answer.details.startswith("certificate:scorer.test lacks")
                # Also where the call is passed on.
                [said] = call(encrypted, STREAM, pushed(feature_view="visits")).messages
                error = push_pb2.PushResponse.FromString(said).error
                assert error.message.startswith("certificate:scorer.test lacks")
                # A token comes before it.
                metadata = bearer(TOKENS["admin"])
                assert call(encrypted, READ, user("board"), metadata=metadata).code is OK
                spoofed = (("hotfeast-identity-bin", b'["other.test"]'),)
                [said] = call(
                    encrypted, STREAM, pushed(feature_view="visits"), metadata=spoofed
                ).messages
                assert b"scorer.test lacks" in said
            with channel(made.port, other.tls(path)) as encrypted:
                assert call(encrypted, READ, user("reco_v1")).code is DENIED


def test_the_python_client_with_a_token(
    private: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, path = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    settings = Settings(
        repo=Path(private.repo_path), port=0, auth=write_policy(write_tokens(tmp_path)),
        tls=TlsSettings(pair.certificate, pair.key),
    )  # fmt: skip
    tls = Tls(ca=path, server_name=NAME)
    with gateway(settings) as made:
        address = f"127.0.0.1:{made.port}"
        with FeatureClient(address, tls=tls, token=TOKENS["scorer"]) as client:
            answer = client.get_online_features("reco_v1", {"user_id": [1]})
            assert answer.to_dict()["count"] == [3]
            with pytest.raises(PermissionDenied):
                client.get_online_features("board", {"user_id": [1]})
            with pytest.raises(NotFound):
                client.get_online_features("reco_v9", {"user_id": [1]})
        with FeatureClient(address, tls=tls) as client, pytest.raises(Unauthenticated):
            client.get_online_features("reco_v1", {"user_id": [1]})


# ---------------------------------------------------------------- tokens of an issuer


class WithIssuer(NamedTuple):
    """A gateway that believes an issuer."""

    gateway: Gateway
    channel: grpc.Channel
    folder: Path
    issuer: Issuer

    def read(self, token: str, service: str = "reco_v1") -> Answer:
        return call(self.channel, READ, user(service), metadata=bearer(token))


@pytest.fixture(scope="module")
def believing(
    private: FeatureStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WithIssuer]:
    folder = write_tokens(tmp_path_factory.mktemp("jwt"))
    issuer = Issuer()
    issuer.keys["rsa"] = guarded.rsa_key()
    issuer.rotate("second")
    with issuer.serving() as url:
        rules = jwt_rules(url, roles=["roles", "resource.hotfeast.roles", "scope"], refresh=3600)
        grants = [
            {"to": ["role:scorer", "jwt:grace"], "do": ["read"], "feature_services": ["reco_*"]},
            {"to": ["group:board"], "do": ["read"], "feature_services": ["board"]},
        ]
        settings = Settings(
            repo=Path(private.repo_path), port=0,
            auth=write_policy(folder, jwt=rules, grants=grants),
        )  # fmt: skip
        with gateway(settings) as made, channel(made.port, None) as plain:
            yield WithIssuer(made, plain, folder, issuer)


@pytest.mark.parametrize(
    "claims",
    [
        {"roles": ["x", "scorer"]},
        {"resource": {"hotfeast": {"roles": ["scorer"]}}},
        {"scope": "openid scorer"},
        {"sub": "grace"},
        {"aud": ["other", "hotfeast"], "roles": ["scorer"]},
        {"roles": ["scorer"], "name": "first"},
    ],
)
def test_claims_become_roles(believing: WithIssuer, claims: dict[str, Any]) -> None:
    token = believing.issuer.token(**claims)
    for _ in range(2):
        assert believing.read(token).code is OK
    answer = believing.read(token, "board")
    assert answer.details == (
        f"jwt:{claims.get('sub', 'ada')} lacks the grant 'read' on feature service 'board'"
    )


def test_groups_and_rsa(believing: WithIssuer) -> None:
    token = believing.issuer.token("rsa", algorithm="RS256", groups=["board"])
    assert believing.read(token, "board").code is OK


def encoded_bytes(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(said: Any) -> str:
    return encoded_bytes(json.dumps(said).encode())


def wrong_tokens(issuer: Issuer) -> Iterator[tuple[str, str]]:
    scorer: dict[str, Any] = {"roles": ["scorer"]}
    yield issuer.token(exp=time.time() - 1, **scorer), "it has expired"
    yield issuer.token(nbf=time.time() + 60, **scorer), "it is not valid yet"
    yield issuer.token(exp=None, **scorer), "it has no claim 'exp'"
    yield issuer.token(aud="other", **scorer), "it is for another audience"
    yield issuer.token(aud=None, **scorer), "it has no claim 'aud'"
    yield issuer.token(iss="https://evil.test/", **scorer), "it is of another issuer"
    yield issuer.token(iss=None, **scorer), "it has no claim 'iss'"
    yield issuer.token(sub=None, **scorer), "its claim 'sub' is no name"
    yield issuer.token(sub="a" * 300, **scorer), "its claim 'sub' is no name"
    yield issuer.token(sub="a\nb", **scorer), "its claim 'sub' is no name"
    yield issuer.token(roles=[f"r{i}" for i in range(300)]), "it has more than 256 roles"
    yield issuer.token(roles=["r" * 300]), "it has more than 256 roles"
    yield issuer.token(key=guarded.Issuer().keys["first"], **scorer), "its signature"
    yield issuer.token(headers={"kid": None}, **scorer), "signed with a key that is not known"
    yield issuer.token("rsa", algorithm="RS512", **scorer), "its algorithm is not allowed"
    yield issuer.token(headers={"kid": "rsa"}, **scorer), "its signature or form is not valid"
    good = issuer.token(**scorer)
    head, body, signature = good.split(".")
    # Signed with what everybody has, the set of public keys.
    forged = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'second'})}.{body}"
    mac = hmac.digest(issuer.key_set(), forged.encode(), "sha256")
    yield f"{forged}.{encoded_bytes(mac)}", "its algorithm is not allowed"
    none = jwt.encode({"sub": "ada"}, None, "none")  # type: ignore[arg-type]
    yield none, "its algorithm is not allowed"
    yield f"{none.split('.')[0]}.{body}.", "its algorithm is not allowed"
    yield f"{head}.{body}.", ""
    yield f"{head}.{body}.{signature[::-1]}", ""
    other = issuer.token(roles=["admin"]).split(".")[1]
    yield f"{head}.{other}.{signature}", "its signature"
    yield f"!.{body}.{signature}", "it is no JWT"


def test_tokens_that_are_not_valid(believing: WithIssuer, caplog: pytest.LogCaptureFixture) -> None:
    for token, why in wrong_tokens(believing.issuer):
        for _ in range(2):
            answer = believing.read(token)
            assert (answer.code, why in answer.details) == (UNKNOWN, True), (why, answer.details)
    for record in caplog.records:
        assert "eyJ" not in record.getMessage()


def test_tokens_expire_while_they_are_remembered(believing: WithIssuer) -> None:
    token = believing.issuer.token(exp=time.time() + 1.5, roles=["scorer"])
    assert believing.read(token).code is OK
    eventually(lambda: believing.read(token).code is UNKNOWN)
    assert "expired" in believing.read(token).details


def test_keys_that_rotate(believing: WithIssuer) -> None:
    """A new key is fetched when it is seen; what is signed with a removed one ends."""
    issuer = believing.issuer
    access = believing.gateway._security.access
    assert access is not None
    keys = access._rules.keys
    assert keys is not None
    old = issuer.token("second", roles=["scorer"])
    assert believing.read(old).code is OK
    keys._pause, asked_before = 0.0, issuer.asked
    issuer.rotate("third", keep=False)
    new = issuer.token(roles=["scorer"])
    first = believing.read(new)
    assert first.code in (grpc.StatusCode.UNAVAILABLE, OK)
    eventually(lambda: believing.read(new).code is OK)
    assert believing.read(old).code in (UNKNOWN, grpc.StatusCode.UNAVAILABLE)
    # Who comes with made up keys has them fetched now and then only.
    keys._pause = 3600.0
    eventually(lambda: not keys._wanted)
    asked_before = issuer.asked
    for number in range(20):
        forged = issuer.token(headers={"kid": f"made up {number}"}, roles=["scorer"])
        assert believing.read(forged).code is UNKNOWN
    assert issuer.asked == asked_before
    # What cannot be fetched leaves those before.
    for broken in (
        (500, b""),
        (200, b"{}"),
        (302, b"http://127.0.0.1:1/"),
        (200, bytes(2**20 + 1)),
    ):
        issuer.broken = broken
        keys.look()
        assert not keys.valid
        assert believing.read(new).code is OK
    issuer.broken = None
    keys.look()
    assert keys.valid


def test_one_key_needs_no_name(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.key_set())
    now = 0.0
    keys = Keys(str(path), 3600, clock=lambda: now)
    assert keys.find(None) is not None
    assert keys.find("other") is None
    now = 20.0
    with pytest.raises(KeysPending):
        keys.find("other")
    keys.look()
    assert keys.find("other") is None
    secret = {"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]}
    for wrong, why in (
        (json.dumps(secret), "no public key that signs"),
        ("[]", "no JSON Web Key Set"),
        ('{"keys": [1]}', "no JSON Web Key Set"),
        (json.dumps({"keys": [{}] * 101}), "more than 100 keys"),
        ("[" * 100_000, "no JSON Web Key Set"),
    ):
        path.write_text(wrong)
        with pytest.raises(StartFailure, match=why):
            Keys(str(path), 3600)


# ---------------------------------------------------------------- files that change


def test_files_are_followed(private: FeatureStore, tmp_path: Path) -> None:
    auth = write_policy(write_tokens(tmp_path))
    settings = Settings(repo=Path(private.repo_path), port=0, auth=auth)
    with gateway(settings) as made, channel(made.port, None) as plain:
        access = made._security.access
        assert access is not None
        access._turns.seconds = 0.02

        def read(service: str) -> grpc.StatusCode:
            return call(plain, READ, user(service), metadata=bearer(TOKENS["scorer"])).code

        assert (read("reco_v1"), read("board")) == (OK, DENIED)
        write_policy(
            tmp_path, grants=[{"to": ["*"], "do": ["read"], "feature_services": ["board"]}]
        )
        eventually(lambda: (read("reco_v1"), read("board")) == (DENIED, OK))
        auth.write_text("grants: 3")
        eventually(lambda: not access.state.policy)
        assert read("board") is OK
        write_policy(tmp_path)
        eventually(lambda: read("reco_v1") is OK)
        assert access.state.policy
        # A token that is taken out is nobody's.
        (tmp_path / "tokens.yaml").write_text("[]")
        eventually(lambda: read("reco_v1") is UNKNOWN)


def test_anybody_may_be_granted_something(private: FeatureStore, tmp_path: Path) -> None:
    grants = [
        {"to": ["anonymous"], "do": ["read"], "feature_services": ["reco_v1"]},
        {"to": ["*"], "do": ["read"], "feature_services": ["reco_v2"]},
    ]
    auth = write_policy(write_tokens(tmp_path), grants=grants)
    settings = Settings(repo=Path(private.repo_path), port=0, auth=auth)
    with gateway(settings) as made, channel(made.port, None) as plain:
        assert call(plain, READ, user("reco_v1")).code is OK
        assert call(plain, READ, user("reco_v2")).details.startswith("anonymous lacks")
        mine = bearer(TOKENS["scorer"])
        assert call(plain, READ, user("reco_v2"), metadata=mine).code is OK
        assert call(plain, READ, user("reco_v1"), metadata=bearer("x" * 40)).code is UNKNOWN


# ---------------------------------------------------------------- what is told


def audited(closed: Guarded, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log says of refusals from now on."""
    # As after a quiet time.
    refusals = closed.gateway._security.refusals
    refusals._left, refusals._silent = 50.0, 0
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if r.name == "hotfeast.audit"]


def test_refusals_are_told_and_counted(closed: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    lines = audited(closed, caplog)
    closed.read("scorer", "board")
    call(closed.channel, READ, user("board"), metadata=bearer("wrong-" * 10))
    told = lines()
    assert len(told) == 2
    assert "reason=permission principal='token:scorer' peer=ipv4:127.0.0.1:" in told[0]
    assert "'read' on feature service 'board'" in told[0].replace('"', "'")
    assert "reason=credentials_invalid" in told[1]
    for line in told:
        assert "wrong-" not in line
        assert TOKENS["scorer"] not in line


def test_names_cannot_forge_lines_of_the_log(
    closed: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    lines = audited(closed, caplog)
    closed.read("scorer", "x\nrefused: reason=forged " + "y" * 5000)
    [told] = lines()
    assert "\n" not in told
    assert len(told) < 1000


def test_lines_are_bounded_and_counts_are_not(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    registry = CollectorRegistry()
    refusals = Refusals(registry, lambda: now)
    for number in range(1000):
        refusals.note(Reason.invalid, "", "ipv4:1.2.3.4:5", f"number {number}")
    assert len(caplog.records) == 50
    now = 0.5
    for number in range(100):
        refusals.note(Reason.denied, "jwt:ada", "", f"number {number}")
    told = [record.getMessage() for record in caplog.records[50:]]
    assert told[0] == "refused: 950 more, which are not told one by one"
    assert len(told) == 6
    counts = {reason: registry.get_sample_value("hotfeast_refusals_total", {"reason": reason})
              for reason in ("credentials_invalid", "permission")}  # fmt: skip
    assert counts == {"credentials_invalid": 1000, "permission": 100}


@pytest.mark.parametrize("name", ["z" * 100_000, "a" * 300])
def test_long_names_are_cut(closed: Guarded, name: str) -> None:
    answer = closed.read("admin", name)
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert len(answer.details) <= 2000
    for reference in (f"visits@v{'9' * 5000}:count", f"{name}:count", f"visits:{name}", name):
        answer = closed.as_("admin", READ, asked([reference]))
        assert answer.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
        assert len(answer.details) <= 2000


def with_jwt(changes: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda said: said.update(jwt=jwt_rules("x") | changes)


def policies() -> Iterator[tuple[Callable[[dict[str, Any]], Any], str]]:
    def grant(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda said: said["grants"][0].update(changes)

    yield grant(do=["write"]), r"grants\[0\]\.do\[0\]: Input should be 'read', 'push'"
    yield grant(to=["nobody"]), r"grants\[0\]\.to\[0\]: 'nobody' is no role of this file"
    yield grant(to=[]), r"grants\[0\]\.to: List should have at least 1 item"
    yield grant(feature_service=["x"]), r"grants\[0\]\.feature_service: is unknown"
    yield grant(feature_services=[]), r"grants\[0\]\.feature_services: List should have at least 1"
    yield grant(pii="yes"), r"grants\[0\]\.pii: Input should be a valid boolean"
    yield (lambda said: said.update(rules={})), "rules: is unknown"
    yield (lambda said: said["roles"].update(x=["scorer"])), r"roles\.x\[0\]: 'scorer' is no role"
    yield (lambda said: said["roles"].update({"*": ["token:x"]})), r"roles\.\*: a role's name"
    yield (lambda said: said.update(tokens="none.yaml")), "none.yaml cannot be read"
    yield (lambda said: said.update(feast_permissions="x")), "feast_permissions: Input should be"
    for changes, why in (
        ({"algorithms": ["none"]}, r"jwt\.algorithms: 'none' is not allowed"),
        ({"algorithms": ["HS256"]}, r"jwt\.algorithms: 'HS256' is not allowed"),
        ({"algorithms": []}, r"jwt\.algorithms: List should have at least 1"),
        ({"jwks": "http://issuer.test/"}, r"jwt\.jwks: keys must come over https"),
        ({"jwks": "http://localhost.evil.test/"}, r"jwt\.jwks: keys must come over https"),
        ({"jwks": "file:///etc/passwd"}, r"jwt\.jwks: keys must come over https"),
        ({"leeway": 1e6}, r"jwt\.leeway: Input should be less than or equal to 300"),
        ({"jwks": "none.json"}, r"none.json cannot be read: No such file"),
        ({"jwks": "http://127.0.0.1:1/"}, r"cannot be fetched: .*refused"),
        ({"secret": "s3cret-value"}, r"jwt\.secret: is unknown"),
    ):
        yield with_jwt(changes), why


def test_policies_that_are_not_valid(private: FeatureStore, tmp_path: Path) -> None:
    write_tokens(tmp_path)
    path = tmp_path / "access.yaml"
    for change, why in policies():
        said = yaml.safe_load(yaml.safe_dump(POLICY))
        change(said)
        path.write_text(yaml.safe_dump(said))
        with pytest.raises(StartFailure, match=why) as error:
            Gateway(Settings(repo=Path(private.repo_path), port=0, auth=path))
        assert "s3cret-value" not in str(error.value)
    for text, why in (
        ("- 1", "must have a mapping"),
        ("a: [", "is not valid YAML"),
        ("a: 1\na: 2", "twice"),
    ):
        path.write_text(text)
        with pytest.raises(StartFailure, match=why):
            Gateway(Settings(repo=Path(private.repo_path), port=0, auth=path))


# ---------------------------------------------------------------- before the message has come


# grpcio's own server takes a message as a whole before anybody is asked.
natively = pytest.mark.parametrize("closed", ["native"], indirect=True)


@pytest.fixture
def peer(closed: Guarded) -> Iterator[RawClient]:
    with socket.create_connection(("127.0.0.1", closed.gateway.port)) as made:
        yield RawClient(made)


FAR = 50 << 20
"""Bytes of a message that is announced, and of which a frame is sent at most."""


def begin(peer: RawClient, method: str, token: str | None, frames: int) -> dict[bytes, bytes]:
    """Begins a call with a long message that never comes. Returns headers and trailers."""
    number = peer.begin(method, () if token is None else bearer(token))
    for i in range(frames):
        head = b"\0" + FAR.to_bytes(4, "big") if i == 0 else bytes(5)
        peer.h2.send_data(number, head + bytes(16379))
    return peer.answer_of(number)[0]


@natively
@pytest.mark.parametrize("method", [READ, PUSH, f"{SERVING}/ListFeatureViews"])
def test_who_has_no_credentials_is_refused_at_the_headers(peer: RawClient, method: str) -> None:
    said = begin(peer, method, None, 0)
    assert said[b"grpc-status"] == b"16"
    assert b"who calls is not known" in said[b"grpc-message"]


@natively
@pytest.mark.parametrize(
    ("method", "token", "status", "why"),
    [
        (READ, "x" * 40, b"16", b"it is not known"),
        (PUSH, TOKENS["old"], b"16", b"it has expired"),
        (STREAM, "x" * 40, b"16", b"it is not known"),
        (STREAM, None, b"16", b"who calls is not known"),
        (READ_STREAM, None, b"16", b"who calls is not known"),
        (REFLECT, None, b"16", b"who calls is not known"),
        (PUSH, TOKENS["scorer"], b"7", b"token:scorer lacks the grant 'push'"),
        (STREAM, TOKENS["scorer"], b"7", b"token:scorer lacks the grant 'push'"),
        (READ, TOKENS["writer"], b"7", b"token:writer lacks the grant 'read'"),
        (CHECK, None, b"8", b"longer than a frame"),
        ("/grpc.health.v1.Health/Watch", None, b"8", b"longer than a frame"),
    ],
)
def test_who_lacks_rights_is_refused_at_the_first_frame_of_a_long_message(
    peer: RawClient, method: str, token: str | None, status: bytes, why: bytes
) -> None:
    said = begin(peer, method, token, 1)
    assert (said[b"grpc-status"], why in said[b"grpc-message"]) == (status, True), said


@natively
def test_long_messages_of_those_who_may_are_read(closed: Guarded, peer: RawClient) -> None:
    """Longer than a stream's window, which is given back once it is known who calls; of a caller
    who was not known before, and of one who was."""
    wanted = user("reco_v1")
    # A field that nobody knows, as long as can be.
    long = wanted + b"\xfa\x3f\x80\x80\xc0\x02" + bytes(5 << 20)
    # It is known by its bytes.
    metadata = (("authorization", f"bEARER {TOKENS['scorer']}"),)
    for _ in range(2):
        said, data = peer.call(READ, long, metadata)
        assert said[b"grpc-status"] == b"0", said
        assert data == closed.as_("scorer", READ, wanted).messages[0]
