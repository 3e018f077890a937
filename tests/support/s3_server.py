"""An S3 server in a process of its own, and a wire to it that can be cut and counted."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from tests.support.patience import PATIENCE_SECONDS


class S3Server:
    """moto's server on a free port of loopback, with one bucket, `models`."""

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._send("PUT", "/models")
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def put(self, key: str, content: bytes) -> None:
        """Write an object of the bucket."""
        self._send("PUT", f"/models/{key}", content)

    def put_folder(self, prefix: str, folder: Path) -> None:
        """Write every file of a folder, folders within it too."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def _send(self, method: str, path: str, body: bytes = b"") -> None:
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)
        # moto takes any credentials, but wants to see some.
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
            pass


class Wire:
    """A TCP proxy that counts what the server sends, notes the ranges asked for, and can be cut.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self.bytes_sent = 0
        self.ranges: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._cut_after: int | None = None
        self._cut_each_after: int | None = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def reset(self) -> None:
        """Count from zero, over a wire that is whole."""
        with self._lock:
            self.bytes_sent, self.ranges = 0, []
            self._cut_after = self._cut_each_after = None

    def cut_after(self, n_bytes: int) -> None:
        """Let so many bytes pass and no more, on no connection, until `reset`."""
        self._cut_after = n_bytes

    def cut_each_after(self, n_bytes: int) -> None:
        """Cut every connection after so many bytes; new ones are let in."""
        self._cut_each_after = n_bytes

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
            passed = 0
            try:
                while piece := server.recv(16 * 1024):
                    piece = piece[: self._left(passed)]
                    client.sendall(piece)
                    passed += len(piece)
                    with self._lock:
                        self.bytes_sent += len(piece)
                    if self._left(passed) == 0:
                        break
            except OSError:
                pass
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _left(self, passed: int) -> int:
        left = 2**40
        if self._cut_after is not None:
            left = min(left, max(0, self._cut_after - self.bytes_sent))
        if self._cut_each_after is not None:
            left = min(left, max(0, self._cut_each_after - passed))
        return left

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := client.recv(16 * 1024):
                found = re.findall(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)", piece)
                with self._lock:
                    self.ranges += [(int(first), int(last)) for first, last in found]
                server.sendall(piece)
        except OSError:
            pass
