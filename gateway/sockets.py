"""The listening sockets of a gateway, and its state folder."""

import os
import socket
from pathlib import Path
from typing import Final, NamedTuple, Self

from gateway.settings import Settings

BACKLOG: Final = 4096
# Linux has 108 bytes for a unix socket's path, including the closing NUL (man 7 unix).
MAX_SOCKET_PATH: Final = 107
CONTROL_SOCKET: Final = "control.sock"


class CannotListen(Exception):
    """A port or socket cannot be listened on, or the state folder cannot be used."""


class ListeningSockets(NamedTuple):
    """The sockets of one gateway: for applications, for operators and Prometheus, and for tools on this machine."""

    app: socket.socket
    control: socket.socket
    unix: socket.socket

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Create the state folder, and listen on all sockets.

        Raises:
            CannotListen: A port is taken, or another gateway uses the folder.
        """
        folder = settings.state_folder()
        make_folder(folder)
        unix = bind_unix(folder / CONTROL_SOCKET)
        app = bind(settings.host, settings.port)
        return cls(app, bind(settings.control_host, settings.control_port), unix)


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket that listens.

    Raises:
        CannotListen: The address cannot be used; the message names it and the reason.
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
    """Create the state folder.

    Raises:
        CannotListen: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotListen(f"cannot use `{folder}` as the state folder: {error.strerror}") from None


def bind_unix(path: Path) -> socket.socket:
    """Return a unix socket that listens, accessible only to its owner.

    Raises:
        CannotListen: Another gateway listens there, or the socket cannot be created.
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
    before = os.umask(0o177)  # set before `bind`, so that the socket is never accessible to others
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
    """Return the address of a TCP socket, as HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
