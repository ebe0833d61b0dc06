"""A relay before a server, whose answers may get lost on the way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 65536


class Relay:
    """Passes on what clients and a server say.

    Args:
        server: port of the server.
        door: where clients come in.

    Attributes:
        port: where clients find it.
    """

    def __init__(self, server: int, door: socket.socket) -> None:
        self._server, self._door = server, door
        self.port = int(door.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._is_losing = threading.Event()

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        """Pass on nothing that the server says; in the end, all connections break."""
        self._is_losing.set()
        try:
            yield
        finally:
            self.break_connections()
            self._is_losing.clear()

    def break_connections(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Let clients in until the door is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with source, suppress(OSError):
            while chunk := source.recv(CHUNK):
                if not (self._is_losing.is_set() and source.getpeername()[1] == self._server):
                    target.sendall(chunk)
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay_before(server: int) -> Iterator[Relay]:
    """Relay connections to a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        relay = Relay(server, door)
        thread = threading.Thread(target=relay.serve)
        thread.start()
        try:
            yield relay
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()
            relay.break_connections()
