"""A request while it is being read: is its body worth reading, and what does it ask for?"""

from collections.abc import Callable
from typing import Final

from gateway.decide.authenticate import Principal, caller_of
from gateway.decide.route import RouteTable
from gateway.errors import (
    ExpectationFailed,
    HeadersTooLarge,
    LoragateError,
    PayloadTooLarge,
    UnsupportedEncoding,
)
from gateway.receive.cross_origin import PREFLIGHT, CrossOrigin
from gateway.receive.endpoints import Address, Kind, find_endpoint
from gateway.receive.limits import Limits
from gateway.receive.rates import WorkerRates
from gateway.receive.request import Request, model_of, wanted_arm
from gateway.receive.wire import read

# A body this small is read to its end before an error is told, so the connection can be kept.
SMALL_BODY_BYTES: Final = 64 * 1024
# Headers that the engine gets as the client sent them: what the body is, and the trace it belongs to.
_FORWARDED: Final = (b"content-type", b"accept", b"traceparent", b"tracestate")


class Incoming:
    """What has come of one request."""

    __slots__ = (
        "address", "body", "caller", "error", "expects", "headers", "is_http10", "is_last", "keep_alive", "method",
        "reply_headers", "size", "url",
    )  # fmt: skip

    def __init__(self) -> None:
        self.url = b""
        self.method = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []
        self.reply_headers = b""  # lines that its reply has beside those of every reply
        self.size = 0
        self.address: Address
        self.caller: Principal
        self.error: LoragateError | None = None
        self.expects = False
        self.is_http10 = False
        self.keep_alive = True
        self.is_last = False  # what follows it on the connection cannot be understood

    @classmethod
    def broken(cls, error: LoragateError) -> "Incoming":
        """Return the last request of a connection, which only gets `error`."""
        incoming = cls()
        incoming.error = error
        incoming.keep_alive = False
        incoming.is_last = True
        return incoming

    def admit(
        self, table: RouteTable, limits: Limits, head_bytes: int, now: Callable[[], float],
        cross_origin: CrossOrigin | None = None,
    ) -> None:  # fmt: skip
        """Decide from the headers alone whether the body is worth reading.

        Args:
            table: The current route table.
            limits: What a request may take.
            head_bytes: Bytes received for this request so far, at least its head.
            now: Unix seconds.
            cross_origin: Which web pages may call; None for none.

        Raises:
            RequestError: It is not.
        """
        headers = self.headers
        if cross_origin is not None and b"origin" in headers:
            preflight = cross_origin.preflight(self.method, headers)
            self.reply_headers = preflight or cross_origin.lines(headers[b"origin"])
            if preflight:
                self.address = PREFLIGHT
                return
        if len(headers) > limits.max_headers or (
            head_bytes > limits.max_header_bytes and self._head_size() > limits.max_header_bytes
        ):
            raise headers_too_large(limits)
        address = self.address = find_endpoint(self.method, self.url)
        if address.endpoint.kind is not Kind.HEALTH:
            self.caller = caller_of(headers, table.keys, now)
        length = headers.get(b"content-length")
        if length is not None and int(length) > limits.max_body_bytes:
            raise body_too_large(int(length), limits)
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise UnsupportedEncoding("Compressed bodies are not read; send the body without a content-encoding.")
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise ExpectationFailed("`Expect` may only be 100-continue.")
            self.expects = not self.is_http10

    def take(self, part: bytes, limits: Limits) -> None:
        """Keep a part of the body, unless there is an error that makes it useless; there may be one now."""
        self.size += len(part)
        if self.error is not None:
            return
        if self.size <= limits.max_body_bytes:
            self.body.append(part)
        else:
            self.error = body_too_large(self.size, limits)
            self.body.clear()

    def is_worth_reading(self) -> bool:
        """Whether a refused request's body is small enough to be read, so that its connection can go on."""
        headers = self.headers
        if b"transfer-encoding" in headers or b"expect" in headers:
            return False
        return int(headers.get(b"content-length", b"0")) <= SMALL_BODY_BYTES

    def request(self, request_id: bytes, table: RouteTable, rates: WorkerRates, received_at: float) -> Request:
        """Return the complete request as the pipeline takes it, let in under all limits that it falls under.

        Raises:
            RateLimited, Overloaded: A limit is exhausted.
            BadRequest: Its body is not what the endpoint takes, or it asks for an arm that there is not.
            Forbidden: The caller may not choose an arm.
        """
        endpoint, in_path = self.address.endpoint, self.address.model
        headers = self.headers
        parts = self.body
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.body = []  # the connection may be idle for long after this
        fields = read(body) if endpoint.method == b"POST" else None
        model = model_of(fields, endpoint, in_path, table.base.name if table.base else None)
        arm = headers.get(b"x-loragate-arm")
        extra = b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in _FORWARDED if name in headers])
        request = Request(
            request_id, endpoint, body, fields, self.caller, model,
            unit=headers.get(b"x-loragate-unit"), task=headers.get(b"x-loragate-task"),
            arm=None if arm is None else wanted_arm(arm, self.caller), keep_alive=self.keep_alive,
            is_http10=self.is_http10, extra_headers=extra, received_at=received_at,
        )  # fmt: skip
        request.reply_headers = self.reply_headers
        if table.unit_headers:
            request.unit_headers = {name: headers[name] for name in table.unit_headers if name in headers}
        if self.caller.rates is not None or table.has_rates:
            request.lease = rates.admit(self.caller, table, model, received_at)
        return request

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers.items())


def headers_too_large(limits: Limits) -> HeadersTooLarge:
    """Return the error of a request whose head is larger than it may be."""
    return HeadersTooLarge(
        f"The headers are larger than {limits.max_header_bytes:,} bytes or more than {limits.max_headers}."
    )


def body_too_large(size: int, limits: Limits) -> PayloadTooLarge:
    """Return the error of a body of at least `size` bytes."""
    return PayloadTooLarge(
        f"The body has {size:,} bytes or more; the limit is {limits.max_body_bytes:,}. Send less in one "
        "request, or have the operator raise `limits.max_body_bytes`."
    )
