"""What judges answers under faults, and the link that breaks them."""

import socket
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from bench.chaos.link import Link, break_frame, flip_bit, swap_halves
from bench.chaos.model import Model, row

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
