"""Reading from Redis with as little as possible around it: one plain socket, nothing looked at."""

import socket
from typing import NamedTuple

import hiredis
import redis

_RECEIVE_SIZE = 1 << 18


class RawRead(NamedTuple):
    """Commands, and the bytes that Redis answers them with."""

    commands: bytes
    reply_size: int


class RawSocket:
    """One plain connection to Redis."""

    def __init__(self, port: int) -> None:
        """
        Args:
            port: Of a Redis on 127.0.0.1.
        """
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_RECEIVE_SIZE)

    def read(self, item: RawRead) -> None:
        """Sends the commands and reads until the whole reply has come; nothing is kept.

        Raises:
            ConnectionError: Redis closed the connection.
        """
        self._socket.sendall(item.commands)
        left = item.reply_size
        while left > 0:
            count = self._socket.recv_into(self._buffer)
            if count == 0:
                raise ConnectionError("Redis closed the connection")
            left -= count

    def reply(self, commands: bytes, count: int) -> bytes:
        """Sends `count` commands and returns their replies as they came.

        Raises:
            redis.RedisError: One of them is an error, or no reply.
            ConnectionError: Redis closed the connection.
        """
        reader = hiredis.Reader(protocolError=redis.RedisError, replyError=redis.ResponseError)
        self._socket.sendall(commands)
        received = bytearray()
        while count:
            data = self._socket.recv(_RECEIVE_SIZE)
            if not data:
                raise ConnectionError("Redis closed the connection")
            received += data
            reader.feed(data)
            while count and (reply := reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                count -= 1
        return bytes(received)

    def __enter__(self) -> "RawSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def pack_command(*parts: bytes) -> bytes:
    """A command in RESP."""
    bulks = (b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%s" % (len(parts), b"".join(bulks))
