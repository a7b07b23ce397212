"""The client for asyncio, beside the other one."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from served import Served

from hotfeast.clients import (
    AsyncFeatureClient,
    DeadlineExceeded,
    FeatureClient,
    InvalidArgument,
    NotFound,
    Unavailable,
)

NOW = datetime.now(UTC).replace(microsecond=0)


def run(served: Served, use: Callable[[AsyncFeatureClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncFeatureClient(served.address) as client:
            await use(client)

    asyncio.run(main())


def test_it_has_the_same_surface() -> None:
    public = {n for n in dir(FeatureClient) if not n.startswith("_")}
    assert public == {n for n in dir(AsyncFeatureClient) if not n.startswith("_")}
    for name in (*public, "__init__"):
        ours = inspect.signature(getattr(AsyncFeatureClient, name)).parameters
        theirs = inspect.signature(getattr(FeatureClient, name)).parameters
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]


def test_reads(strict: Served) -> None:
    async def use(client: AsyncFeatureClient) -> None:
        await client.warm_up()
        answers = await asyncio.gather(
            *(
                client.get_online_features("part", [{"user_id": u}], request_id=str(u))
                for u in (1, 2, 3)
            )
        )
        for user, answer in zip((1, 2, 3), answers, strict=True):
            theirs = strict.client.get_online_features("part", {"user_id": [user]})
            assert answer.to_dict() == theirs.to_dict()
            assert answer.statuses == theirs.statuses
        cart = await client.get_online_features(
            "cart_service", {"user_id": [1]}, request={"cart_value": [3.0]}
        )
        assert cart.to_dict()["cart_share"] == [2.0]
        assert (await client.serving_info()).project == "market"
        assert await client.feature_services() == strict.client.feature_services()
        assert await client.feature_views() == strict.client.feature_views()

    run(strict, use)


def test_failures(strict: Served) -> None:
    async def use(client: AsyncFeatureClient) -> None:
        with pytest.raises(NotFound, match="'users'"):
            await client.get_online_features("user", {"user_id": [1]})
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            async with AsyncFeatureClient(address, timeout=0.1) as other:
                with pytest.raises(DeadlineExceeded):
                    await other.get_online_features("part", {"user_id": [1]})
        with pytest.raises(NotFound, match="no push source"):
            await client.push({"user_id": [1]}, push_source="nothing")
        with pytest.raises(ValueError, match="push_source or feature_view"):
            await client.push({"user_id": [1]})
        async with AsyncFeatureClient("127.0.0.1:1") as nobody:
            with pytest.raises(Unavailable):
                await nobody.get_online_features("part", {"user_id": [1]})

    run(strict, use)


def batch(user: int) -> dict[str, list[Any]]:
    return {"user_id": [user], "sku": ["async"], "score": [0.5], "event_timestamp": [NOW]}


def test_pushes(strict: Served) -> None:
    async def use(client: AsyncFeatureClient) -> None:
        result = await client.push(batch(700), feature_view="affinity")
        assert result.outcomes == ["written"]

        async def batches() -> AsyncIterator[Any]:
            for user in (701, 702):
                yield batch(user)

        for source in (batches(), [batch(703)]):
            async for result in client.push_stream(source, feature_view="affinity"):
                assert result.outcomes == ["written"]
        answer = await client.get_online_features(
            ["affinity:score"], {"user_id": [700, 701, 702, 703, 704], "sku": ["async"] * 5}
        )
        assert answer.to_dict()["score"] == [0.5] * 4 + [None]

    run(strict, use)


def test_streams_that_fail(strict: Served) -> None:
    async def use(client: AsyncFeatureClient) -> None:
        with pytest.raises(InvalidArgument, match="'nonsense'"):
            await anext(client.push_stream([{"nonsense": [1]}], feature_view="affinity"))
        with pytest.raises(TypeError, match="'user_id'"):
            await anext(client.push_stream([{"user_id": [2**64]}], feature_view="affinity"))

    run(strict, use)
