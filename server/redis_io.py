"""Connections to Redis, one pipelined round trip a request, and writes.

redis-py makes the connections: address, authentication, database, TLS. The hot path borrows their
sockets. A connection that is given back is kept by us, not by redis-py's pool, whose check before
each loan costs as much as a small read; a connection that Redis has closed in the meantime shows at
its first use, and that read is repeated on a new one, which is safe because reads change nothing.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.definition import LAYOUTS
from hotfeast.hotpath.errors import ReplyError
from hotfeast.hotpath.link import exchange
from hotfeast.hotpath.packed import settle_reply
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.write_link import exchange_writes
from hotfeast.hotpath.writes import WriteBatch
from hotfeast.server.breaker import Breaker
from hotfeast.server.errors import RedisUnavailable, passes
from hotfeast.server.layouts import Schemas
from hotfeast.server.redis_clients import version_of
from hotfeast.server.settings import BreakerSettings

# Bytes read at once from an encrypted socket: TLS's largest record.
_TLS_READ = 16384
# How often rows are sent again that Redis does not look at, and seconds before the first time; it
# is twice as long before each next one.
_MOST_TRIES = 4
_FIRST_PAUSE = 0.01
# The share of the time for a reply that replicas have: the master's reply comes behind it.
_SHARE_OF_WAIT = 0.8
NEVER_OPENS = BreakerSettings(share=0)
"""Of those who make few exchanges, and can wait for each."""


class Lane:
    """A connection on loan from redis-py, with the buffers its replies are read into.

    Attributes:
        reply: The reply of the last round trip.
        server: Where it leads to, for comparison with others.
    """

    __slots__ = ("connection", "descriptor", "fresh", "reply", "server", "tls")

    def __init__(self, connection: Any) -> None:
        sock: socket.socket = connection._sock
        self.connection = connection
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.descriptor = sock.fileno()
        self.server = getattr(connection, "host", None), getattr(connection, "port", None)
        self.reply = Reply()
        self.fresh = True

    def close(self) -> None:
        """Closes the connection."""
        self.connection.disconnect()

    def exchange(self, batch: Batch, timeout: float, cache: RowCache | None = None) -> None:
        """One round trip, or none if the cache has it all; errors as of
        `hotfeast.hotpath.link.exchange`."""
        if self.tls is None:
            exchange(self.descriptor, batch, self.reply, timeout, cache)
        else:
            self._exchange_encrypted(self.tls, batch, timeout, cache)

    def exchange_writes(self, batch: WriteBatch, patience: float) -> None:
        """Sends a batch's rows; errors as of `hotfeast.hotpath.write_link.exchange_writes`."""
        if self.tls is None:
            exchange_writes(self.descriptor, batch, patience)
            return
        batch.begin()
        self.tls.settimeout(patience)
        while commands := batch.next_portion():
            self.tls.sendall(commands)
            answered = False
            while not answered:
                data = self.tls.recv(_TLS_READ)
                if not data:
                    raise ConnectionResetError("Redis closed the connection")
                answered = batch.feed(data)

    def receive(self, tls: ssl.SSLSocket, end: float) -> None:
        """Reads replies that are begun, until they are complete or the time is up."""
        answered = False
        while not answered:
            if time.monotonic() > end:
                raise TimeoutError("Redis did not answer in time")
            tls.settimeout(max(end - time.monotonic(), 0.001))
            data = tls.recv(_TLS_READ)
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            answered = self.reply.feed(data)

    def _exchange_encrypted(
        self, tls: ssl.SSLSocket, batch: Batch, timeout: float, cache: RowCache | None
    ) -> None:
        if cache is None:
            self.reply.start(batch)
        else:
            cache.start(batch, self.reply)
        if not batch.command_bytes:
            settle_reply(batch, self.reply)
            return
        end = time.monotonic() + timeout
        settled = False
        while not settled:
            tls.settimeout(max(end - time.monotonic(), 0.001))
            tls.sendall(batch.command_bytes)
            self.receive(tls, end)
            self.reply.raise_error()
            settled = settle_reply(batch, self.reply)
        if cache is not None:
            cache.store(batch, self.reply)


class Lanes:
    """Connections to one Redis server, for any number of threads.

    Sentinel may name another server as the master at any time. Redis closes the connections to one
    that it makes a replica, so that they are noticed; so do those to one that hangs, when the first
    new connection leads elsewhere.

    Attributes:
        schemas: Which features its packed rows hold.
        breaker: Says whether it is left alone.
    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        max_idle: int = 64,
        breaker: BreakerSettings = NEVER_OPENS,
        timeout: float = 1.0,
    ) -> None:
        """
        Args:
            pool: Makes the connections. Its own limits and checks are not used.
            max_idle: Connections that are kept open while no request uses them.
            breaker: When the server is left alone.
            timeout: Seconds that it has to answer, by which that is judged.
        """
        self._pool = pool
        self.breaker = Breaker(breaker, timeout, self.ping)
        self.schemas = Schemas(pool)
        self._max_idle = max_idle
        # LIFO, so that connections that are not needed stay idle. append and pop are atomic.
        self._idle: deque[Lane] = deque()
        self._server: tuple[Any, Any] | None = None
        self._closed = False

    def take(self) -> Lane:
        """A connection on loan; an idle one, or a new one.

        Raises:
            RedisUnavailable: There is none to be had.
        """
        try:
            return self._idle.pop()
        except IndexError:
            pass
        try:
            connection: Any = self._pool.make_connection()
            connection.connect()
        except (redis.RedisError, OSError) as error:
            raise RedisUnavailable(f"cannot connect to Redis: {error}") from error
        lane = Lane(connection)
        if lane.server != self._server:
            self._server = lane.server
            self.drop_idle()
        return lane

    def exchange(self, talk: Callable[[Lane, float], None], timeout: float) -> Lane:
        """Talks over a connection; once more over a new one where an idle one had died.

        Args:
            talk: Sends and receives, within the seconds that it is told. It may happen twice.
            timeout: Seconds for both.

        Returns:
            The connection, in step; it must be given back.

        Raises:
            RedisUnavailable: There is no connection, or no answer in time.
            ReplyError: Redis answered with an error.
            ProtocolError: What answers is not Redis, or out of step.
        """
        left = timeout
        end = time.monotonic() + timeout
        self.breaker.check()
        while True:
            try:
                lane = self.take()
            except RedisUnavailable as error:
                self.breaker.failed(error)
                raise
            try:
                talk(lane, left)
            except ReplyError as error:
                self.release(lane)
                self.note_reply(error)
                raise
            except TimeoutError as error:
                self.drop(lane)
                self.breaker.failed(error, timeout)
                raise RedisUnavailable(str(error)) from error
            except OSError as error:
                self.drop(lane)
                if lane.fresh:
                    self.breaker.failed(error)
                    raise RedisUnavailable(f"the connection to Redis broke: {error}") from error
                # The other idle connections probably have died, too.
                self.drop_idle()
                left = max(end - time.monotonic(), 0.001)
                continue
            except BaseException:
                self.drop(lane)
                raise
            self.breaker.succeeded()
            return lane

    def note_reply(self, error: ReplyError) -> None:
        """Notes that Redis has answered with an error."""
        if passes(error):
            self.breaker.failed(error)
        else:
            self.breaker.succeeded()

    def release(self, lane: Lane) -> None:
        """Gives a connection back that is in step."""
        lane.fresh = False
        if self._closed or len(self._idle) >= self._max_idle:
            self.drop(lane)
        else:
            self._idle.append(lane)

    def drop(self, lane: Lane) -> None:
        """Gives a connection back that is out of step, or broken."""
        lane.close()

    def drop_idle(self) -> None:
        """Closes all idle connections."""
        while True:
            try:
                self.drop(self._idle.pop())
            except IndexError:
                return

    def ping(self) -> str:
        """Asks Redis which server it is, and for its version.

        Raises:
            RedisUnavailable: It did not answer.
        """
        client = redis.Redis(connection_pool=self._pool)
        try:
            info: Any = client.info("server")
            return version_of(info)
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis did not answer: {error}") from error

    def close(self) -> None:
        """Closes all idle connections; those in use are closed when they are given back."""
        self._closed = True
        self.breaker.stop()
        self.drop_idle()
        self._pool.disconnect()


class RedisReader:
    """Reads batches, from any number of threads."""

    def __init__(
        self,
        lanes: Lanes,
        timeout: float,
        cache: RowCache | None = None,
        follow: Callable[[Plan], None] = lambda _: None,
    ) -> None:
        """
        Args:
            lanes: The connections.
            timeout: Seconds for a round trip.
            cache: Rows that need not be asked for.
            follow: Is told of plans whose rows the cache does not hear of yet.
        """
        self._lanes = lanes
        self._timeout = timeout
        self._cache = cache
        self._follow = follow

    def batch(self, plan: Plan, request: Request) -> Batch:
        """A batch to read.

        Raises:
            InvalidRequest: The request's columns are not what the plan needs.
        """
        if self._cache is None:
            return Batch(plan, request)
        if not plan.followed:
            self._follow(plan)
        return Batch(plan, request, later=True)

    def read(self, batch: Batch, time_left: float | None) -> Lane:
        """Sends a batch's commands and reads their replies.

        Args:
            batch: What to read.
            time_left: Seconds until the caller's deadline; None where it has none.

        Returns:
            The connection, whose `reply` is complete. It must be given back with `release`, after
            which the reply is gone.

        Raises:
            RedisUnavailable: There is no connection, or no answer in time.
            ReplyError: Redis answered with an error.
            ProtocolError: What answers is not Redis, or out of step.
        """
        timeout = self._timeout
        if time_left is not None and time_left < timeout:
            timeout = time_left
        cache = self._cache
        while True:
            lane = self._lanes.exchange(
                lambda lane, left: lane.exchange(batch, left, cache), timeout
            )
            unknown = lane.reply.unknown
            if unknown is None:
                return lane
            try:
                learnt = self._lanes.schemas.learn(batch.plan, *unknown)
            except redis.RedisError as error:
                self.release(lane)
                raise RedisUnavailable(
                    f"cannot look up which features packed rows hold: {error}"
                ) from error
            if not learnt:
                # Rows that are nowhere else are told as what they are: not readable.
                return lane
            self.release(lane)

    def release(self, lane: Lane) -> None:
        """Gives a connection back."""
        self._lanes.release(lane)


class RedisWriter:
    """Writes batches, from any number of threads."""

    def __init__(
        self, lanes: Lanes, timeout: float, cache: RowCache | None = None, replicas: int = 0
    ) -> None:
        """
        Args:
            lanes: The connections.
            timeout: Seconds to wait for each next reply.
            cache: Forgets what it has of the rows that are written.
            replicas: How many must confirm rows before these count as written.
        """
        self._lanes = lanes
        self._replicas = replicas
        self._timeout = timeout
        self._cache = cache

    def write(self, batch: WriteBatch, time_left: float | None = None) -> None:
        """Sends a batch's rows; their outcomes are in the batch.

        Sending rows again is safe: they are compared with what is stored, themselves included. So
        a connection that had died while it was idle is replaced, and a Redis that has forgotten the
        script is given it again.

        Args:
            batch: What to write.
            time_left: Seconds until the caller's deadline; None where it has none.

        Raises:
            RedisUnavailable: There is no connection, or no answer in time. Rows that are still
                pending may have been written or not.
            ProtocolError: What answers is not Redis, or out of step.
        """
        try:
            self._write(batch, time_left)
        finally:
            # Whatever has come of it; before the caller can tell anybody that it is written.
            if self._cache is not None:
                self._cache.forget_rows(batch)

    def _write(self, batch: WriteBatch, time_left: float | None) -> None:
        patience = self._timeout
        if time_left is not None and time_left < patience:
            patience = time_left
        if batch.plan.definition.layout != LAYOUTS[0] and batch.unfinished:
            try:
                self._lanes.schemas.record(batch.plan.definition)
            except redis.RedisError as error:
                raise RedisUnavailable(
                    f"cannot record which features packed rows hold: {error}"
                ) from error
        tries = 0
        while batch.unfinished:
            send_rows(self._lanes, batch, patience, self._replicas)
            if not batch.put_off:
                continue
            # Sentinel may name another master by now.
            self._lanes.drop_idle()
            tries += 1
            if tries == _MOST_TRIES:
                raise RedisUnavailable(f"Redis does not take the rows: {batch.put_off[0][1]}")
            time.sleep(_FIRST_PAUSE * 2**tries)


def send_rows(lanes: Lanes, batch: WriteBatch, patience: float, replicas: int = 0) -> None:
    """Sends what is pending of a batch, or of a part of it, to one server, which may put rows off.

    Args:
        lanes: Connections to the server.
        batch: What to send.
        patience: Seconds to wait for each next reply.
        replicas: How many must confirm rows before these count as written.

    Raises:
        RedisUnavailable, ProtocolError: As `RedisWriter.write`.
    """
    loaded = False
    while True:
        lane = lanes.exchange(lambda lane, left: lane.exchange_writes(batch, left), patience)
        if not batch.no_script:
            if replicas:
                _await_replicas(lanes, lane, batch, replicas, patience)
            lanes.release(lane)
            return
        if loaded:
            lanes.release(lane)
            raise RedisUnavailable("Redis forgets the script that compares event times")
        _load_script(lanes, lane, batch.script)
        loaded = True


def _await_replicas(
    lanes: Lanes, lane: Lane, batch: WriteBatch, replicas: int, patience: float
) -> None:
    """Waits until replicas have what has just been written over a connection; takes the rows back
    where they have not."""
    limit = max(1, int(1000 * patience * _SHARE_OF_WAIT))
    try:
        lane.connection.send_command("WAIT", replicas, limit)
        confirmed = lane.connection.read_response()
    except (redis.RedisError, OSError) as error:
        batch.take_back()
        lanes.drop(lane)
        raise RedisUnavailable(f"no word of replicas that have the rows: {error}") from error
    if confirmed < replicas:
        batch.take_back()
        lanes.release(lane)
        raise RedisUnavailable(
            f"{confirmed} of {replicas} replicas confirmed the rows within {limit} ms; they may be "
            "stored, and be lost with the master"
        )


def _load_script(lanes: Lanes, lane: Lane, script: bytes) -> None:
    try:
        lane.connection.send_command("SCRIPT", "LOAD", script)
        lane.connection.read_response()
    except redis.ResponseError as error:
        lanes.release(lane)
        raise RedisUnavailable(f"Redis does not take the script: {error}") from error
    except (redis.RedisError, OSError) as error:
        lanes.drop(lane)
        raise RedisUnavailable(f"the connection to Redis broke: {error}") from error
    lanes.release(lane)
