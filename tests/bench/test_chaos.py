"""What judges answers under faults, the link that breaks them, and what faults are done to."""

import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.chaos.link import Link, break_frame, flip_bit, swap_halves
from bench.chaos.model import Model, row
from bench.chaos.run import Trial, to_markdown
from bench.chaos.world import write_certificates
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.local_shapes import wait_until

REPLY = b"*2\r\n$3\r\nabc\r\n$12\r\nabcdefghijkl\r\n"


def answer(user: int, number: int, **changed: Any) -> tuple[dict[str, list[Any]], Any]:
    values = {name: [value] for name, value in (row(user, number) | changed).items()}
    return values, {name: ["PRESENT"] for name in values}


def nothing(user: int, status: str) -> tuple[dict[str, list[Any]], Any]:
    values: dict[str, list[Any]] = {"user": [user]}
    values |= {name: [None] for name in ("step", "check", "text", "ratio")}
    return values, {name: [status] for name in values}


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (answer(3, 7), "right"),
        (answer(3, 8), "right"),
        (nothing(3, "OUTSIDE_MAX_AGE"), "right"),
        (answer(3, 6), "lost"),
        (nothing(3, "NOT_FOUND"), "lost"),
        (answer(3, 9), "wrong"),
        (answer(3, 7, text="3/8/tttttttt"), "wrong"),
        (answer(3, 7, ratio=4.5), "wrong"),
        (answer(4, 7), "wrong"),
        (answer(3, 7, step=None), "wrong"),
        (nothing(3, "INVALID"), "wrong"),
        (({}, {}), "wrong"),
    ],
)
def test_answers_are_judged(told: tuple[dict[str, list[Any]], Any], found: str) -> None:
    model = Model()
    for _ in range(8):
        model.next_rows([3])
    model.judge([3], {3: 7}, *told)
    result = model.findings
    assert (result.rows, result.wrong, result.lost) == (1, found == "wrong", found == "lost")
    assert len(result.examples) == (found != "right")


def test_bytes_are_changed_as_is_said() -> None:
    chance = Random(1)
    for _ in range(100):
        flipped = flip_bit(chance, REPLY)
        assert sum((a ^ b).bit_count() for a, b in zip(flipped, REPLY, strict=True)) == 1
        broken = break_frame(chance, REPLY)
        places = [i for i, (a, b) in enumerate(zip(broken, REPLY, strict=True)) if a != b]
        assert len(places) == 1
        assert REPLY[places[0]] not in b"abcdefghijkl"
    assert break_frame(chance, b"nothing of RESP") == b"nothing of RESP"
    assert swap_halves(chance, b"12345") == b"34512"


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=back, args=(client,), daemon=True).start()

        def back(client: socket.socket) -> None:
            with client:
                try:
                    while data := client.recv(65536):
                        client.sendall(data)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_link_passes_on_breaks_and_is_mended(echo: int) -> None:
    link = Link(echo)
    link.every = 1

    def connect() -> socket.socket:
        made = socket.create_connection(("127.0.0.1", link.port))
        made.settimeout(30)
        return made

    def said(client: socket.socket, data: bytes = b"0123456789") -> bytes:
        client.sendall(data)
        received = b""
        while len(received) < len(data) and (more := client.recv(100)):
            received += more
        return received

    try:
        with connect() as client:
            assert said(client) == b"0123456789"
            link.change = swap_halves
            assert said(client) == b"5678901234"
            link.both = True
            assert said(client) == b"0123456789"
            link.change = None
            link.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        link.truncate = True
        with connect() as client:
            assert said(client) == b"01234"
        link.mend()
        with connect() as client:
            assert said(client) == b"0123456789"
    finally:
        link.close()


@pytest.mark.parametrize(
    ("true", "keeps", "wrong", "lost", "recovery", "kept"),
    [
        (True, True, 0, 0, 0.0, True),
        (True, True, 1, 0, 0.0, False),
        (True, True, 0, 1, 0.0, False),
        (True, False, 0, 1, 0.0, True),
        (True, False, 1, 0, 0.0, False),
        (False, False, 1, 1, 0.0, True),
        (False, False, 0, 0, None, False),
    ],
)
def test_what_is_promised_is_what_counts(
    true: bool, keeps: bool, wrong: int, lost: int, recovery: float | None, kept: bool
) -> None:
    trial = Trial("it", "done", true, keeps, {"OK": 1}, {}, recovery, 5, wrong, lost, [])
    assert trial.kept == kept
    told = [f"{n}{' (not promised)' * (n and not p)}" for n, p in ((wrong, true), (lost, keeps))]
    assert to_markdown([trial]).endswith(f"| 5 | {told[0]} | {told[1]} |\n")


def test_changed_bytes_end_what_is_encrypted(tmp_path: Path) -> None:
    """No value comes of them."""
    with LocalRedis(tls=write_certificates(tmp_path)) as server:
        server.client().set("name", "value" * 20)
        link = Link(server.port)
        link.every = 1
        try:
            for change in (flip_bit, swap_halves):
                client = redis.Redis(
                    host="127.0.0.1",
                    port=link.port,
                    # A record whose length was changed is waited for.
                    socket_timeout=0.5,
                    retry=Retry(NoBackoff(), 0),
                    **server.client_options,
                )
                assert client.get("name") == b"value" * 20
                link.change, link.both = change, True
                for _ in range(5):
                    with pytest.raises(redis.RedisError):
                        client.get("name")
                link.mend()
        finally:
            link.close()


def test_a_server_whose_disk_is_full(tmp_path: Path) -> None:
    """It goes on, and takes no rows until it can write its file again."""
    durable = ("--appendonly", "yes", "--appendfsync", "everysec")
    with LocalRedis(*durable, data_dir=tmp_path) as server:
        client = server.client()
        client.set("name", "value")
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, before[1]))

        def refuses() -> bool:
            try:
                client.set("name", "other")
            except redis.ResponseError as error:
                return "MISCONF" in str(error)
            return False

        wait_until(refuses, "it takes no rows")
        assert client.get("name") == b"other"
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        wait_until(lambda: client.set("name", "third"), "it takes rows again")
