"""The sockets that a gateway listens on, and the folder that it keeps its state in."""

import os
import socket
from pathlib import Path
from typing import Final, NamedTuple, Self

from gateway.settings import Settings

BACKLOG: Final = 4096
# Linux keeps 108 bytes for a unix socket's path, the closing NUL included (man 7 unix).
MAX_SOCKET_PATH: Final = 107
CONTROL_SOCKET: Final = "control.sock"


class CannotListen(Exception):
    """A port is taken, or may not be used."""


class ListeningSockets(NamedTuple):
    """Where one gateway listens: for applications, for operators and Prometheus, and for this machine's tools."""

    app: socket.socket
    control: socket.socket
    unix: socket.socket

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make the state folder, and listen.

        Raises:
            CannotListen: A port is taken, or another gateway has the folder.
        """
        folder = settings.state_folder()
        make_folder(folder)
        unix = bind_unix(folder / CONTROL_SOCKET)
        app = bind(settings.host, settings.port)
        return cls(app, bind(settings.control_host, settings.control_port), unix)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        CannotListen: The message names the address and the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def make_folder(folder: Path) -> None:
    """Make the state folder.

    Raises:
        CannotListen: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotListen(f"cannot use `{folder}` as the state folder: {error.strerror}") from None


def bind_unix(path: Path) -> socket.socket:
    """Return a listening unix socket, open to its owner alone.

    Raises:
        CannotListen: Another gateway listens there, or it cannot be made.
    """
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        raise CannotListen(
            f"`{path}` is longer than the {MAX_SOCKET_PATH} bytes of a socket's path; use a shorter state folder"
        )
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise CannotListen(f"another gateway runs on the state folder `{path.parent}`; stop it, or use --state")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # never open to others, not even for a moment
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on `{path}`: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Return where a TCP socket listens, as HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
