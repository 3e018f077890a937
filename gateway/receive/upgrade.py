"""Ignores the `Upgrade` header, as RFC 9110, 7.8 allows: the request is served as plain HTTP/1.1.

Java's HTTP client offers h2c with the first request on every clear-text connection, even a POST with a body. httptools
stops parsing after such a head, as it expects another protocol. So a new parser reads the body, after it has been fed a
head made here that frames the body in the same way.
"""

from typing import Protocol

import httptools


class Callbacks(Protocol):
    """The callbacks of an httptools parser."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


def has_body(headers: dict[bytes, bytes]) -> bool:
    """Whether the headers of a request announce a body."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


def parser_after_upgrade(callbacks: Callbacks, headers: dict[bytes, bytes]) -> httptools.HttpRequestParser:
    """Return a parser that continues after the head with `headers`: in the body, if there is one."""
    if not has_body(headers):
        return httptools.HttpRequestParser(callbacks)
    parser = httptools.HttpRequestParser(_BehindHead(callbacks))
    framing = [(name, headers[name]) for name in (b"content-length", b"transfer-encoding") if name in headers]
    parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % header for header in framing]))
    return parser


class _BehindHead:
    """Passes all callbacks on, except those of the first head, which was made here."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._to = callbacks
        self._is_ours = True
        self.on_body = callbacks.on_body
        self.on_message_complete = callbacks.on_message_complete

    def on_message_begin(self) -> None:
        if not self._is_ours:
            self._to.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_ours:
            self._to.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_ours:
            self._to.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_ours:
            self._to.on_headers_complete()
        self._is_ours = False
