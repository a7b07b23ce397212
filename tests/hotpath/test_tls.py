"""TLS between socket and HTTP/2 in the loop: what clients say that do not keep to it."""

import ssl
from contextlib import suppress
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings

from tests.hotpath.helpers import RANDOMS
from tests.hotpath.http2_client import framed
from tests.hotpath.tls_loop import (
    CUT,
    HELLO,
    RAW,
    RECORDS,
    SEALED,
    changed,
    connect,
    echoed,
    request,
    rest_of,
    say,
    shake,
    the_loop,
)

SEEDS = [
    b"%c" % RAW + b"\x16\x03\x01\0\5hello",
    b"%c" % RAW + request(),
    b"%c" % HELLO,
    b"%c" % HELLO + b"\0\5\2" * 2,
    b"%c\x0f" % RECORDS + request(),
    b"%c\xff" % RECORDS + b"GET / HTTP/1.1\r\n\r\n",
    b"%c\0\x09\xff" % SEALED,
    b"%c\0\x29" % CUT,
]


def check_that_others_are_answered() -> None:
    """A client of good will is."""
    assert echoed() == framed(b"hello")


@pytest.mark.parametrize("data", SEEDS)
def test_whatever_a_client_says_its_connection_ends(data: bytes) -> None:
    say(data)
    check_that_others_are_answered()


@settings(max_examples=60)
@given(RANDOMS)
def test_changed_handshakes_and_records(generator: Random) -> None:
    size = generator.choice([1, 3, 9, 40])
    say(bytes([generator.randrange(5)]) + generator.randbytes(size))


def test_a_changed_record_is_told_once_and_not_answered() -> None:
    before = len(the_loop().refused)
    with connect() as raw:
        made = shake(raw)
        made.session.write(request())
        raw.sendall(changed(made.outgoing.read(), b"\0\x20\xff\0\x21\xff"))
        made.incoming.write(rest_of(raw))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        list(iter(partial(made.session.read, 65536), b"hello"))
    assert len(the_loop().refused) == before + 1


def test_records_of_a_byte_are_answered() -> None:
    with connect() as raw:
        made = shake(raw)
        for byte in request():
            made.session.write(bytes([byte]))
        raw.sendall(made.outgoing.read())
        clear = b""
        while b"hello" not in clear:
            made.incoming.write(raw.recv(65536))
            with suppress(ssl.SSLWantReadError):
                while True:
                    clear += made.session.read(65536)
