"""A Feast repository whose features are not for everybody, an issuer of tokens, and policies."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pandas as pd
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String

ISSUER = "https://issuer.test/"
NOW = datetime.now(UTC).replace(microsecond=0)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
_source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")


def _view(name: str, *fields: Field, **more: Any) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(days=2),
        schema=[Field(name="user_id", dtype=Int64), *fields],
        source=more.pop("source", _source),
        **more,
    )


visits = _view(
    "visits",
    Field(name="count", dtype=Int64),
    source=PushSource(name="visits_push", batch_source=_source),
)
contact = _view(
    "contact",
    Field(name="email", dtype=String, tags={"pii": "true"}),
    Field(name="country", dtype=String),
)
secret_plans = _view("secret_plans", Field(name="margin", dtype=Int64))
_request = RequestSource(name="asked", schema=[Field(name="extra", dtype=Int64)])


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[contact, _request], schema=[Field(name="domain", dtype=String)], mode="python"
)
def domain(inputs: dict[str, Any]) -> dict[str, Any]:
    """What is computed of an address."""
    return {"domain": [str(each).partition("@")[2] for each in inputs["email"]]}


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[contact],
    schema=[Field(name="has_email", dtype=Int64)],
    mode="python",
    tags={"pii": "false"},
)
def presence(inputs: dict[str, Any]) -> dict[str, Any]:
    """What is computed of an address, and said to be nobody's."""
    return {"has_email": [int(each is not None) for each in inputs["email"]]}


views = [visits, contact, secret_plans, domain, presence]
services = [
    FeatureService(name="reco_v1", features=[visits]),
    FeatureService(name="reco_v2", features=[visits, contact[["country"]]]),
    FeatureService(name="mailing", features=[contact]),
    FeatureService(name="domains", features=[domain]),
    FeatureService(name="presences", features=[presence]),
    FeatureService(name="board", features=[secret_plans]),
]


def make_repository(folder: Path, project: str, connection_string: str, *more: Any) -> FeatureStore:
    """Applies the definitions, and fills the store.

    Args:
        folder: Where.
        project: Feast's project.
        connection_string: Of the online store.
        more: Is applied, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: {project}
registry: {folder / "registry.db"}
provider: local
online_store: {{type: redis, connection_string: "{connection_string}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply([user, *views, *services, *more])
    rows = {"user_id": [1], "event_timestamp": [NOW]}
    for view, columns in (
        ("visits", {"count": [3]}),
        ("contact", {"email": ["ada@example.com"], "country": ["UK"]}),
        ("secret_plans", {"margin": [7]}),
    ):
        store.write_to_online_store(view, pd.DataFrame(rows | columns))
    return store


class Issuer:
    """Signs tokens, and says by which keys.

    Attributes:
        keys: Private keys by name, the newest last.
        asked: How often its set of keys was fetched.
        broken: What its set of keys is answered as instead.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        self.broken: tuple[int, bytes] | None = None
        self.rotate("first")

    def rotate(self, name: str, *, keep: bool = True) -> None:
        """Signs with a new key from now on."""
        if not keep:
            self.keys.clear()
        self.keys[name] = ec.generate_private_key(ec.SECP256R1())

    def key_set(self) -> bytes:
        """The public keys."""
        made = []
        for name, key in self.keys.items():
            is_ec = isinstance(key, ec.EllipticCurvePrivateKey)
            kind: Any = jwt.algorithms.ECAlgorithm if is_ec else jwt.algorithms.RSAAlgorithm
            said = json.loads(kind.to_jwk(key.public_key()))
            made.append(said | {"kid": name, "use": "sig"})
        return json.dumps({"keys": made}).encode()

    def token(self, name: str = "", key: Any = None, **claims: Any) -> str:
        """A token.

        Args:
            name: Of the key; the newest if empty.
            key: To sign with in place of that.
            claims: More of them; None for those that are left out. `headers` and `algorithm` are
                the token's.
        """
        headers = {"kid": name or list(self.keys)[-1]} | claims.pop("headers", {})
        algorithm = claims.pop("algorithm", "ES256")
        said = {"iss": ISSUER, "aud": "hotfeast", "sub": "ada", "exp": time.time() + 600} | claims
        said = {claim: value for claim, value in said.items() if value is not None}
        key = self.keys[name or list(self.keys)[-1]] if key is None else key
        return jwt.encode(said, key, algorithm, {k: v for k, v in headers.items() if v is not None})

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its set of keys over HTTP; gives the URL."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                code, data = issuer.broken or (200, issuer.key_set())
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", data.decode())
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys.json"
        finally:
            server.shutdown()
            server.server_close()


def rsa_key() -> rsa.RSAPrivateKey:
    """A private key of another kind."""
    return rsa.generate_private_key(65537, 2048)


def jwt_rules(jwks: str, **more: Any) -> dict[str, Any]:
    """The part of a policy that judges the issuer's tokens."""
    return {
        "jwks": jwks, "issuer": ISSUER, "audience": "hotfeast",
        "algorithms": ["ES256", "RS256"], "leeway": 0,
    } | more  # fmt: skip


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a token is sent in."""
    return (("authorization", f"Bearer {token}"),)
