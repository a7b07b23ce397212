"""A TCP proxy whose connections can be cut, slowed down, and their bytes changed."""

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

Change = Callable[[random.Random, bytes], bytes]
"""Makes other bytes of some that are on their way."""

_READ_SIZE = 65536
# A length of RESP with its type.
_LENGTH = re.compile(rb"[*$%]\d+\r\n")


def flip_bit(chance: random.Random, data: bytes) -> bytes:
    """Changes one bit, wherever it is."""
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def break_frame(chance: random.Random, data: bytes) -> bytes:
    """Changes a type or a length of RESP."""
    places = list(_LENGTH.finditer(data))
    if not places:
        return data
    place = chance.choice(places)
    at = chance.randrange(place.start(), place.end())
    changed = bytearray(data)
    changed[at] = chance.choice([byte for byte in b"*$%:+-0123456789\r\n" if byte != data[at]])
    return bytes(changed)


def swap_halves(_: random.Random, data: bytes) -> bytes:
    """Puts the second half in front of the first."""
    half = len(data) // 2
    return data[half:] + data[:half]


class Link:
    """Between whoever connects to `port` and a server.

    Attributes:
        port: To connect to, on 127.0.0.1.
        delay: Seconds that bytes are held up, each way.
        change: Is applied to bytes on their way back from the server, and to those on their way
            there where `both` is set; to one portion in `every`.
        truncate: Whether connections are cut in the middle of what comes back, one in `every`.
    """

    def __init__(self, target: int) -> None:
        """
        Args:
            target: The server's port on 127.0.0.1.
        """
        self.target = target
        self.delay = 0.0
        self.change: Change | None = None
        self.both = False
        self.truncate = False
        self.every = 5
        self.port = 0
        self._chance = random.Random(1)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()
        self._listening.wait()

    def cut(self) -> None:
        """Ends all connections, as a reset."""
        self._loop.call_soon_threadsafe(self._cut)

    def mend(self) -> None:
        """Lets bytes pass again, over new connections."""
        self.delay, self.change, self.both, self.truncate = 0.0, None, False, False
        self.cut()

    def close(self) -> None:
        """Ends the proxy."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _cut(self) -> None:
        for writer in list(self._writers):
            # One that is closed already need not be.
            with suppress(OSError):
                raw = writer.get_extra_info("socket")
                # No time to say goodbye: a reset.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, out}
        try:
            await asyncio.gather(
                self._pass_on(reader, out, back=False), self._pass_on(there, writer, back=True)
            )
        finally:
            for each in (writer, out):
                self._writers.discard(each)
                each.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool
    ) -> None:
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        end = asyncio.ensure_future(self._write(waiting, writer))
        try:
            while data := await reader.read(_READ_SIZE):
                hit = self._chance.randrange(self.every) == 0
                if self.truncate and back and hit:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                if self.change is not None and hit and (back or self.both):
                    data = self.change(self._chance, data)
                if self.delay:
                    self._loop.call_later(self.delay, partial(waiting.put_nowait, data))
                else:
                    waiting.put_nowait(data)
        except OSError:
            pass
        finally:
            await asyncio.sleep(0)
            end.cancel()
            writer.transport.abort() if self.truncate else writer.close()

    @staticmethod
    async def _write(waiting: "asyncio.Queue[bytes]", writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(await waiting.get())
                await writer.drain()
        except OSError:
            writer.transport.abort()
