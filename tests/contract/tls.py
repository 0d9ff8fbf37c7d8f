"""A proxy that speaks TLS to its clients, with a certificate of a CA made for the test, and plainly to the server."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

import trustme

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""By which a client of PostgreSQL asks for TLS."""


class Authority:
    """A CA of one test. `file` holds its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA(organization_name=name)
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def context(self, *names: str) -> ssl.SSLContext:
        """What a server needs that is called by one of these names."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(made)
        return made


class TlsProxy:
    """Listens on a port of 127.0.0.1 while the `with` block lasts.

    Args:
        context: the server's side of TLS.
        target: port of the server on 127.0.0.1; None: nobody, and what comes is only kept.
        postgres: TLS begins as PostgreSQL begins it.

    Attributes:
        port: where it listens. accepted, refused: handshakes so far. first: what the first client said first.
    """

    def __init__(self, context: ssl.SSLContext, target: int | None, *, postgres: bool = False) -> None:
        self._context, self._target, self._postgres = context, target, postgres
        self.accepted = self.refused = 0
        self.first = b""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                client.settimeout(30)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._postgres:
                if client.recv(8) != _SSL_REQUEST:
                    return
                client.sendall(b"S")
            try:
                inside = self._context.wrap_socket(client, server_side=True)
            except (ssl.SSLError, ConnectionError):
                self.refused += 1
                return
            with inside:
                self._talk(inside)

    def _talk(self, inside: ssl.SSLSocket) -> None:
        try:
            first = inside.recv(65_536)
        except (ssl.SSLError, ConnectionError):
            first = b""
        if not first:  # with TLS 1.3 a client refuses after the handshake
            self.refused += 1
            return
        self.accepted += 1
        self.first = self.first or first
        if self._target is not None:
            with socket.create_connection(("127.0.0.1", self._target), timeout=30) as server:
                server.sendall(first)
                _pump(inside, server)


def _pump(inside: ssl.SSLSocket, server: socket.socket) -> None:
    """Copy both ways until one side ends; in one thread, since a TLS connection must not be used by two at once."""
    to = {inside: server, server: inside}
    while True:
        ready = [inside] if inside.pending() else select.select(list(to), [], [])[0]
        for source in ready:
            data = source.recv(65_536)
            if not data:
                return
            to[source].sendall(data)
