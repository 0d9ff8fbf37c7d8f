"""A line to a server that nobody here may kill: it can be cut, or lose the answers, and stay so for a while."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

_BYTES = 65_536


class Link:
    """Passes connections on to the server of a URL; `url` is the same one over this line."""

    def __init__(self, url: str) -> None:
        """Listen, on loopback alone.

        Args:
            url: with its port; user and password stay as they are.
        """
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._server = socket.create_server(("127.0.0.1", 0))
        login, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self._server.getsockname()[1]}"))
        self._up = threading.Event()
        self._up.set()
        self._answers = threading.Event()
        self._answers.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are ended at once, until `mend`."""
        self._up.clear()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Keep the server's answers back, and from either side that the other has gone, until `mend`."""
        self._answers.clear()

    def mend(self) -> None:
        """Let new connections through again, and answers."""
        self._up.set()
        self._answers.set()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.close()
        self.cut()
        self._answers.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if not self._up.is_set():
                return
            with socket.create_connection(self._target, timeout=10) as far:
                far.settimeout(None)
                with self._lock:
                    self._open |= {near, far}
                back = threading.Thread(target=self._copy, args=(far, near), kwargs={"answers": True}, daemon=True)
                back.start()
                self._copy(near, far)
                back.join()
                with self._lock:
                    self._open -= {near, far}

    def _copy(self, source: socket.socket, target: socket.socket, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(_BYTES):
                if answers:
                    self._answers.wait()
                target.sendall(content)
        self._answers.wait()
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
