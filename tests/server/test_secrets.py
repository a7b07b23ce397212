"""What is secret is neither in logs nor in errors."""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from feast import FeatureStore
from guarded import Issuer, bearer, jwt_rules
from processes import Process, eventually, run_cli
from secured import channel
from test_access import OK, TOKENS, pushed, user, write_policy, write_tokens
from test_native import READ, call

from hotfeast.server.errors import RedisUnavailable, StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.redis_io import Lanes
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.repository import open_repository

PUSH = "/hotfeast.serving.v1.Push/Push"
PASSWORD = "pa55-of-redis"
SECRETS = (PASSWORD, "hft_", "eyJ", "s3cret", "x-session")


def told(process: Process) -> str:
    return "\n".join([*process.lines, *process.errors])


def test_a_gateway_that_tells_all_it_can(private: FeatureStore, tmp_path: Path) -> None:
    """At the level debug, with an access log of every call, and callers who do things wrong."""
    issuer = Issuer()
    keys = tmp_path / "keys.json"
    keys.write_bytes(issuer.key_set())
    auth = write_policy(write_tokens(tmp_path), jwt=jwt_rules(str(keys)))
    expired = issuer.token(exp=time.time() - 5)
    with Process(
        Path(private.repo_path), "--auth", str(auth), "--log-level", "debug", "--access-log", "1",
        "--drain", "1",
    ) as process:  # fmt: skip
        port = int(process.address().rpartition(":")[2])
        with channel(port, None) as plain:
            more = (("x-session", "s3cret"), ("cookie", "s3cret"), ("x-key-bin", b"s3cret"))
            for token, service, code in (
                (TOKENS["scorer"], "reco_v1", OK),
                (TOKENS["scorer"], "board", grpc.StatusCode.PERMISSION_DENIED),
                (TOKENS["old"] + "s3cret", "board", grpc.StatusCode.UNAUTHENTICATED),
                (expired, "board", grpc.StatusCode.UNAUTHENTICATED),
                (expired + "s3cret", "board", grpc.StatusCode.UNAUTHENTICATED),
            ):
                answer = call(plain, READ, user(service), metadata=(*bearer(token), *more))
                assert answer.code is code
                assert not any(secret in answer.details for secret in SECRETS)
                call(plain, PUSH, pushed(feature_view="visits"), metadata=(*bearer(token), *more))
        # A policy and tokens that are not valid any more.
        (tmp_path / "tokens.yaml").write_text(f"- {{name: a, token: {TOKENS['admin']}}}")
        eventually(lambda: "the policy before stays in force" in told(process))
        auth.write_text("jwt: {secret: s3cret, jwks: s3cret}\ngrants: [s3cret]")
        eventually(lambda: "jwt.secret: is unknown" in told(process))
        assert process.stop() == 0
    said = told(process)
    assert "reason=permission" in said
    assert "GetOnlineFeatures" in said
    assert [secret for secret in SECRETS if secret in said] == []


def test_a_redis_that_cannot_be_reached(private: FeatureStore) -> None:
    store = open_repository(Path(private.repo_path))
    for url in (
        f"redis://user:{PASSWORD}@127.0.0.1:1/0",
        f"rediss://:{PASSWORD}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={PASSWORD}",
        f"redis://user:{PASSWORD}@nowhere.invalid:1/0",
    ):
        pool: Any = connection_pool(store.config, url, 0.5)
        lanes = Lanes(pool)
        for ask in (lanes.ping, lanes.take):
            with pytest.raises(RedisUnavailable) as error:
                ask()
            assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        f"reddis://:{PASSWORD}@127.0.0.1:6379",
        f"redis://:{PASSWORD}@127.0.0.1:port",
        f"redis://:{PASSWORD}@[::1",
    ],
)
def test_a_url_that_is_not_valid(private: FeatureStore, url: str) -> None:
    with pytest.raises(StartFailure) as error:
        Gateway(Settings(repo=Path(private.repo_path), port=0, redis_url=url))
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        f'online_store: {{type: redis, connection_string: ["{PASSWORD}"]}}',
        f'online_store: {{type: redis, connection_strin: "127.0.0.1:1,password={PASSWORD}"}}',
        f"offline_store: {{type: file, password: {PASSWORD}, x: [}}",
    ],
)
def test_a_repository_that_is_not_valid(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        f"project: p\nprovider: local\nregistry: registry.db\n{wrong}\n"
    )
    with pytest.raises(StartFailure) as error:
        open_repository(tmp_path)
    assert PASSWORD not in str(error.value)


def test_settings_that_are_shown(tmp_path: Path) -> None:
    shown = run_cli(
        "config", "show", "--repo", str(tmp_path), "--redis", f"redis://u:{PASSWORD}@127.0.0.1:1"
    )
    assert shown.returncode == 0
    assert PASSWORD not in shown.stdout + shown.stderr
