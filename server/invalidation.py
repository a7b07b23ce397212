"""Word from Redis of what is written, for the cache.

One connection of its own asks Redis, with CLIENT TRACKING in broadcast mode, to be told of every
write, expiry and deletion of a key that begins as the entity keys of the plans in use do.
Broadcast, because the word then does not depend on which connection has read a row: where Redis
remembers the reader instead, a reading connection that Redis closes takes with it the word on all
that was read through it, and nobody notices. It also costs Redis nothing for a read, and no memory
for each key. The price is that every write is told, read or not; Redis sends all keys of one turn
of its loop in one message.

Where the connection is lost, or does not answer for two beats, the cache is shut, which forgets
all, until there is a new one. So it is, for a moment, where a plan with other join keys than any
before it comes up: the new connection asks for its keys, too.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import hiredis
import redis

from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.plan import Plan
from hotfeast.server.errors import RedisUnavailable, StartFailure

logger = logging.getLogger(__name__)

# Seconds of silence after which Redis is asked whether it is still there.
_BEAT = 1.0
# Seconds between two attempts to get a connection.
_RETRY = 0.5
_READ = 65536
# What no entity key begins with.
_NO_PREFIX = b"\0"


class _Lost(Exception):
    """The connection is of no use any more."""


class Invalidations:
    """Keeps a cache in step with what is written to Redis, in a thread of its own."""

    def __init__(
        self,
        pool: redis.ConnectionPool,
        cache: RowCache,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            pool: Says how to connect; none of its connections is used.
            cache: What is kept in step; it is open while there is word from Redis.
            tell: Is called about once a beat.
        """
        self._pool = pool
        self._cache = cache
        self._tell = tell
        self._lock = threading.Lock()
        self._wanted: frozenset[bytes] = frozenset()
        # Of the connection that there is, or was last; it never shrinks.
        self._followed: frozenset[bytes] = frozenset()
        self._connection: Any = None
        self._reader = hiredis.Reader()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="invalidations", daemon=True)

    def want(self, prefixes: Iterable[bytes]) -> None:
        """Has keys with these beginnings followed, soon."""
        with self._lock:
            self._wanted |= frozenset(prefixes)

    def follow(self, plan: Plan) -> None:
        """Marks a plan whose keys are followed, or has them followed soon."""
        prefixes = plan.cached_prefixes
        if self._followed.issuperset(prefixes):
            plan.followed = True
        else:
            self.want(prefixes)

    def start(self) -> None:
        """Connects, opens the cache, and starts to listen.

        Raises:
            RedisUnavailable: Redis cannot be reached; `start` may be called again.
            StartFailure: Redis refuses to tell.
        """
        try:
            self._connect()
        except redis.ResponseError as error:
            raise StartFailure(
                "the cache needs word of what is written, and Redis refuses it: "
                f"{error}. Allow the user HELLO, CLIENT TRACKING and PING (Redis 6 or later), "
                "or leave out --cache-mb"
            ) from error
        except (redis.RedisError, OSError, _Lost) as error:
            raise RedisUnavailable(f"cannot connect to Redis: {error}") from error
        self._thread.start()

    def stop(self) -> None:
        """Stops, and shuts the cache."""
        self._stopping.set()
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            # So that the thread does not wait any longer; the plain socket's, if it is encrypted.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()

    def _connect(self) -> None:
        """Connects and opens the cache."""
        with self._lock:
            wanted = self._wanted
        of = _broadest(wanted)
        options = {**self._pool.connection_kwargs, "protocol": 3}
        connection: Any = self._pool.connection_class(**options)
        try:
            connection.connect()
            # From here on the socket is ours: word may come right behind the first answer.
            self._reader = hiredis.Reader()
            for command in ((b"CLIENT", b"TRACKING", b"ON", b"BCAST", *of), (b"PING",)):
                connection._sock.sendall(_command(*command))
                answer = self._receive(connection._sock)
                # What was written before the cache is open has not been read into it.
                while isinstance(answer, hiredis.PushNotification):
                    answer = self._receive(connection._sock)
                if isinstance(answer, hiredis.ReplyError):
                    raise redis.ResponseError(str(answer))
            connection._sock.settimeout(_BEAT)
        except BaseException:
            connection.disconnect()
            raise
        self._connection = connection
        self._followed = wanted
        self._cache.open()

    def _receive(self, sock: socket.socket) -> Any:
        """The next message.

        Raises:
            TimeoutError: None came in time.
            OSError, hiredis.HiredisError, _Lost: The connection is lost.
        """
        while (message := self._reader.gets()) is False:
            data = sock.recv(_READ)
            if not data:
                raise _Lost("Redis closed the connection")
            self._reader.feed(data)
        return message

    def _run(self) -> None:
        complained = False
        while not self._stopping.is_set():
            failed = False
            try:
                if self._connection is None:
                    self._connect()
                    logger.info("Redis tells of writes again; the cache is in use")
                complained = False
                self._listen()
            except (redis.RedisError, hiredis.HiredisError, OSError, _Lost) as error:
                failed = True
                if not complained and not self._stopping.is_set():
                    logger.warning("no word of writes from Redis, so nothing is cached: %s", error)
                    complained = True
            finally:
                self._cache.shut()
                self._tell()
                if self._connection is not None:
                    self._connection.disconnect()
                    self._connection = None
            if failed:
                self._stopping.wait(_RETRY)

    def _listen(self) -> None:
        """Passes on what Redis tells, until somebody wants more of it, or the end.

        Raises:
            OSError, hiredis.HiredisError, _Lost: The connection is lost.
        """
        sock: socket.socket = self._connection._sock
        told = 0.0
        asked = False
        while not self._stopping.is_set() and self._wanted <= self._followed:
            if (now := time.monotonic()) - told >= _BEAT:
                self._tell()
                told = now
            try:
                message = self._receive(sock)
            except TimeoutError:
                if asked:
                    raise _Lost(f"no answer for {_BEAT:.0f} s") from None
                sock.sendall(_command(b"PING"))
                asked = True
                continue
            asked = False
            if isinstance(message, hiredis.PushNotification):
                if message[0] == b"invalidate":
                    self._cache.invalidate(message[1])
            elif isinstance(message, hiredis.ReplyError):
                raise _Lost(str(message))


def _command(*words: bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return packed


def _broadest(prefixes: Iterable[bytes]) -> list[bytes]:
    """The arguments that ask for keys with these beginnings. Redis refuses two of them where one
    begins with the other."""
    broadest: list[bytes] = []
    # Without any, Redis would tell of all keys.
    for prefix in sorted(prefixes) or [_NO_PREFIX]:
        if not broadest or not prefix.startswith(broadest[-1]):
            broadest.append(prefix)
    return [argument for prefix in broadest for argument in (b"PREFIX", prefix)]
