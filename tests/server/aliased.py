"""Two versions of a feature service, and gateways that divide requests between them.

`users_v1` and `users_v2` read two views of the same features; `spend` is another in the second for
user 3, and `city` is not there for user 1.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import market
import pandas as pd
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.types import Float64, Int64, String
from served import Served, serve, stop

from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.settings import Settings, TrafficSettings
from hotfeast.serving.v1 import serving_pb2, traffic_pb2, traffic_pb2_grpc, value_pb2

USERS = [1, 2, 3]
READ = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
ANSWERED_BY = "hotfeast-feature-service"


def _view(name: str, **tags: str) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[market.user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="spend", dtype=Float64),
            Field(name="city", dtype=String, tags=tags),
        ],
        source=market._source,
    )


def users(**changed: Any) -> pd.DataFrame:
    """The rows of a view, with other columns where they are given."""
    columns = {
        "user_id": USERS,
        "event_timestamp": [market.NOW] * len(USERS),
        "spend": [1.5, 2.5, 3.5],
        "city": ["Ulm", "Bonn", "Jena"],
    }
    return pd.DataFrame({**columns, **changed})


def make_repo(folder: Path, redis: LocalRedis, project: str) -> FeatureStore:
    """A repository with both versions, applied and filled."""
    market.write_repository(folder, project, redis.address)
    store = FeatureStore(repo_path=str(folder))
    first, second = _view("stats_1"), _view("stats_2", pii="true")
    by_product = market.product_stats
    store.apply(
        [
            market.user,
            market.product,
            first,
            second,
            by_product,
            FeatureService(name="users_v1", features=[first]),
            FeatureService(name="users_v2", features=[second]),
            FeatureService(name="products", features=[by_product]),
        ]
    )
    store.write_to_online_store("stats_1", users())
    store.write_to_online_store(
        "stats_2", users(spend=[1.5, 2.5, 99.0], city=[None, "Bonn", "Jena"])
    )
    return store


@contextmanager
def dividing(
    store: FeatureStore, aliases: Path, text: str, **settings: Any
) -> Iterator[tuple[Served, "Traffic"]]:
    """A gateway with a file of aliases."""
    aliases.write_text(text)
    made = replace(
        Settings(repo=Path(store.repo_path), traffic=TrafficSettings(aliases)), **settings
    )
    served = serve(store, made)
    try:
        with Traffic(served.address) as traffic:
            yield served, traffic
    finally:
        stop(served)


class Traffic:
    """What a client can ask about aliases, and of them."""

    def __init__(self, address: str) -> None:
        # A connection of its own: channels of one address otherwise share theirs.
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._read: Any = self.channel.unary_unary(READ)
        self.stub: Any = traffic_pb2_grpc.TrafficStub(self.channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def read(self, service: str, *users: int, **options: Any) -> "Read":
        """Reads features of users."""
        return self.send(request(service, *users), **options)

    def send(self, data: bytes, **options: Any) -> "Read":
        """Sends a request of bytes."""
        answer, call = self._read.with_call(data, timeout=20, **options)
        return Read(serving_pb2.GetOnlineFeaturesResponse.FromString(answer), call)

    def sides(self, alias: str, users: range) -> dict[int, str]:
        """Which target each user's request goes to."""
        return {user: self.read(alias, user).target for user in users}

    def set(
        self, name: str, targets: Mapping[str, float], caller: str = "tester", **more: Any
    ) -> Any:
        """Sets an alias."""
        request = traffic_pb2.SetAliasRequest(
            expected_revision=more.pop("expected", None), reason=more.pop("reason", "")
        )
        shadow = more.pop("shadow", None)
        request.alias.CopyFrom(traffic_pb2.Alias(name=name, **more))
        for target, share in targets.items():
            request.alias.targets.add(name=target, share=share)
        if shadow is not None:
            request.alias.shadow.target, request.alias.shadow.share = shadow
        return self.stub.SetAlias(request, timeout=20, metadata=(("x-caller", caller),)).alias

    def roll_back(self, name: str, **more: Any) -> Any:
        """Rolls an alias back."""
        request = traffic_pb2.RollbackAliasRequest(name=name, **more)
        return self.stub.RollbackAlias(request, timeout=20).alias

    def remove(self, name: str) -> None:
        """Removes an alias."""
        self.stub.RemoveAlias(traffic_pb2.RemoveAliasRequest(name=name), timeout=20)

    def changes(self, name: str = "") -> list[Any]:
        """The changes, newest first."""
        request = traffic_pb2.ListAliasChangesRequest(name=name)
        return list(self.stub.ListAliasChanges(request, timeout=20).changes)

    def aliases(self) -> Any:
        """The aliases."""
        return self.stub.ListAliases(traffic_pb2.ListAliasesRequest(), timeout=20)

    def comparisons(self, name: str = "") -> list[Any]:
        """What shadow reads found."""
        request = traffic_pb2.CompareShadowsRequest(name=name)
        return list(self.stub.CompareShadows(request, timeout=20).comparisons)


class Read:
    """An answer and its trailing metadata.

    Attributes:
        answer: The answer.
        metadata: Names and values, in order.
    """

    def __init__(self, answer: Any, call: Any) -> None:
        self.answer = answer
        self.metadata = metadata_of(call)

    @property
    def target(self) -> str:
        """Which target of an alias has answered; empty where no alias was asked for."""
        return str(self.answer.metadata.feature_service)

    def said(self, name: str) -> list[str]:
        """All values of one name."""
        return [value for each, value in self.metadata if each == name]


def metadata_of(call: Any) -> list[tuple[str, str]]:
    """The trailing metadata of a call, or of its failure."""
    return [(name, value) for name, value in call.trailing_metadata() or ()]


def request(service: str, *users: int, beside: str = "") -> bytes:
    """A serialized request, with one more column where that is named."""
    column = value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=user) for user in users])
    names = ["user_id", beside] if beside else ["user_id"]
    return serving_pb2.GetOnlineFeaturesRequest(
        feature_service=service, entities=dict.fromkeys(names, column)
    ).SerializeToString()


def counts(sides: Mapping[int, str]) -> Counter[str]:
    """How many users are on each side."""
    return Counter(sides.values())
