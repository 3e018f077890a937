"""Connection poolers before a PostgreSQL: PgBouncer where it is installed, and a small one of our own.

Ours speaks the real protocol over real sockets. It lends a server's session for as long as a client's connection,
transaction or statement lasts, and refuses what PgBouncer refuses: `options` while connecting, and transactions
where it lends statement by statement.
"""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

START_SECONDS: Final = 20.0
_PROTOCOL: Final = 196_608
_SSL, _GSS = 80_877_103, 80_877_104
_HEADER: Final = struct.Struct("!ci")


def pgbouncer() -> str | None:
    """Return the program, or None where it is not installed."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return str(found) if found else None


@contextmanager
def running_pgbouncer(where: str, mode: str, *more: str) -> Iterator[str]:
    """Run PgBouncer before the database at `where`; gives the address through it."""
    program = pgbouncer()
    assert program is not None
    server, name = where.rsplit("/", 1)
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="lg-pool-"))
    folder.chmod(0o777)  # it refuses to run as root
    (folder / "users").write_text('"loragate" ""\n')
    lines = (
        "[databases]",
        f"{name} = host=127.0.0.1 port={server.rpartition(':')[2]} dbname={name}",
        "[pgbouncer]",
        "listen_addr=127.0.0.1",
        f"listen_port={port}",
        "auth_type=trust",
        f"auth_file={folder}/users",
        f"pool_mode={mode}",
        "unix_socket_dir=",
        f"logfile={folder}/log",
        *more,
    )
    (folder / "ini").write_text("\n".join(lines) + "\n")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *user, folder / "ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.02)
        yield f"postgresql://loragate@127.0.0.1:{port}/{name}"
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


class SmallPooler:
    """A pooler of our own before the database at `where`.

    Args:
        where: Address of the database.
        mode: `session`, `transaction` or `statement`: for how long a client is lent a session.
        is_sticky: Whether a client is lent the session again that it had last, if that is free, and a new client
            a new one: so that all looks well as long as there are few clients.
    """

    def __init__(self, where: str, mode: str, *, is_sticky: bool = False) -> None:
        server, self._name = where.rsplit("/", 1)
        self._server_port = int(server.rpartition(":")[2])
        self.mode = mode
        self.is_sticky = is_sticky
        self.idle: list[socket.socket] = []
        self._guard = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://loragate@127.0.0.1:{self._listener.getsockname()[1]}/{self._name}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        lent: socket.socket | None = None
        try:
            if not _greet(client):
                return
            last: socket.socket | None = None
            while True:
                request = _read_request(client)
                if self.mode == "statement" and b"BEGIN" in request[:64].upper():
                    _refuse(client, b"transaction blocks not allowed in statement pooling mode")
                    return
                if lent is None:
                    lent = last = self._take(last)
                lent.sendall(request)
                is_over = _pump(lent, client)
                if is_over and self.mode != "session":
                    self._give_back(lent)
                    lent = None
        except (OSError, EOFError):
            pass
        finally:
            client.close()
            if lent is not None:
                with contextlib.suppress(OSError, EOFError):
                    ask(lent, "ROLLBACK")  # what was left open in it must not be another's
                    self._give_back(lent)

    def _take(self, last: socket.socket | None) -> socket.socket:
        with self._guard:
            if self.is_sticky and last in self.idle:
                self.idle.remove(last)
                return last
            if self.idle and not self.is_sticky:
                return self.idle.pop()
        server = _connect(self._server_port, self._name)
        self._open.append(server)
        return server

    def _give_back(self, server: socket.socket) -> None:
        with self._guard:
            self.idle.append(server)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(server: socket.socket, query: str) -> bytes:
    """Return the one value that a query gives on a session of the server."""
    server.sendall(_packed(b"Q", query.encode() + b"\0"))
    value = b""
    while (message := _message(server))[:1] != b"Z":
        if message[:1] == b"D":
            value = message[11:]
    return value


def _read(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = sock.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _message(sock: socket.socket) -> bytes:
    head = _read(sock, 5)
    return head + _read(sock, _HEADER.unpack(head)[1] - 4)


def _read_request(client: socket.socket) -> bytes:
    """Return the messages up to one that the server answers in full: a query, or a sync."""
    found = b""
    while True:
        message = _message(client)
        if message[:1] == b"X":
            raise EOFError
        found += message
        if message[:1] in b"QS":
            return found


def _pump(server: socket.socket, client: socket.socket) -> bool:
    """Hand the server's answer on; returns whether no transaction is open after it."""
    while True:
        message = _message(server)
        client.sendall(message)
        if message[:1] == b"Z":
            return message[5:] == b"I"


def _greet(client: socket.socket) -> bool:
    while True:
        size = struct.unpack("!i", _read(client, 4))[0]
        body = _read(client, size - 4)
        if struct.unpack("!i", body[:4])[0] not in (_SSL, _GSS):
            break
        client.sendall(b"N")
    if b"\0options\0" in body:
        _refuse(client, b"unsupported startup parameter: options")
        return False
    answer = _packed(b"R", struct.pack("!i", 0))
    for name, value in (
        (b"server_version", b"15.0"),
        (b"client_encoding", b"UTF8"),
        (b"DateStyle", b"ISO, MDY"),
        (b"standard_conforming_strings", b"on"),
        (b"integer_datetimes", b"on"),
    ):
        answer += _packed(b"S", name + b"\0" + value + b"\0")
    client.sendall(answer + _packed(b"K", struct.pack("!ii", 1, 1)) + _packed(b"Z", b"I"))
    return True


def _refuse(client: socket.socket, why: bytes) -> None:
    client.sendall(_packed(b"E", b"SFATAL\0VFATAL\0C08P01\0M" + why + b"\0\0"))


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _connect(port: int, name: str) -> socket.socket:
    server = socket.create_connection(("127.0.0.1", port))
    body = struct.pack("!i", _PROTOCOL) + b"user\0loragate\0database\0" + name.encode() + b"\0\0"
    server.sendall(struct.pack("!i", len(body) + 4) + body)
    while _message(server)[:1] != b"Z":
        pass
    return server
