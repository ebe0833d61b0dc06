"""A Prefect server that is away now and then: a way to a real one, which is cut and open again later."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from prefect_server import free_address
from processes import PATIENCE_S

REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP/1")
IDENTIFIER = re.compile("[0-9a-f]{8}-[0-9a-f-]{27}|(?<==)[^&]+")
CHUNK = 65536


class AbsentServer:
    """An address at which a server is found, except while it is away; then connections are refused.

    Args:
        server: address of the API of the real one.
        leaves: is told what is asked for, such as "POST /api/flow_runs/", and says whether the server leaves before
            it hears that.
        away_s: for how long it leaves, each time.

    Attributes:
        url: the address.
        heard: what was asked for while it was there.
        left: what was asked for when it left.
    """

    def __init__(self, server: str, leaves: Callable[[str], bool], away_s: float) -> None:
        self.url = free_address()
        self.heard: list[str] = []
        self.left: list[str] = []
        self._server, self._leaves, self._away_s = urlsplit(server), leaves, away_s
        self._connections: set[asyncio.StreamWriter] = set()
        self._door: asyncio.Server | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Be there as long as this lasts, except when away."""
        is_there = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(is_there)), name="absent server", daemon=True)
        thread.start()
        try:
            assert is_there.wait(PATIENCE_S)
            yield
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join()

    async def _serve(self, is_there: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        await self._open()
        is_there.set()
        await self._end.wait()
        await self._close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=0.1)
            await self._close()  # who has come in this moment gets in, too
        await asyncio.sleep(0.1)  # what was aborted is closed a turn of the loop later

    async def _open(self) -> None:
        if not self._end.is_set():
            self._door = await asyncio.start_server(self._connect, "127.0.0.1", urlsplit(self.url).port)

    async def _close(self) -> None:
        if self._door is not None:
            door, self._door = self._door, None
            for listening in door.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            await asyncio.sleep(0.01)  # Python 3.11 loses whom it is letting in when a door is closed
            door.close()
        for connection in self._connections:
            connection.transport.abort()

    async def _leave(self, asked: str) -> None:
        self.left.append(asked)
        await self._close()
        asyncio.get_running_loop().call_later(self._away_s, lambda: asyncio.ensure_future(self._open()))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            there, to_there = await asyncio.open_connection(self._server.hostname, self._server.port)
            self._connections.add(to_there)
            try:
                await asyncio.gather(self._pass_on(reader, to_there, self._hears), self._pass_on(there, writer))
            finally:
                self._drop(to_there)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._drop(writer)

    def _drop(self, connection: asyncio.StreamWriter) -> None:
        self._connections.discard(connection)
        connection.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_heard: Callable[[bytes], str | None] = lambda _: None,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if (asked := is_heard(chunk)) is not None:
                await self._leave(asked)
                return
            writer.write(chunk)
            await writer.drain()
        writer.close()

    def _hears(self, chunk: bytes) -> str | None:
        """Return what is asked for, if that makes the server leave."""
        if (request := REQUEST.match(chunk)) is None or self._door is None:
            return None
        asked = f"{request[1].decode()} {IDENTIFIER.sub('*', request[2].decode())}"
        if self._leaves(asked):
            return asked
        self.heard.append(asked)
        return None
