"""A request while it is being read: its admission by the headers alone, its body, and the complete `Request`."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

from gateway.decide.authenticate import Principal, caller_of
from gateway.decide.route import RouteTable
from gateway.errors import (
    ExpectationFailed,
    HeadersTooLarge,
    LoragateError,
    PayloadTooLarge,
    UnsupportedEncoding,
)
from gateway.openai.body import AT_ONCE_BYTES, SURELY_AT_ONCE_BYTES, Fields, read, read_in_steps, takes_steps
from gateway.openai.endpoints import EndpointKind, RequestAddress, find_endpoint
from gateway.openai.pieces import PIECE_BYTES, Pieces
from gateway.receive.body_memory import BodyMemory, BodyReservation
from gateway.receive.cross_origin import PREFLIGHT
from gateway.receive.framing import check_without_keys, framing_problem, is_host
from gateway.receive.limits import Limits
from gateway.receive.rates import WorkerRates
from gateway.receive.request import Request, model_of, parse_arm

if TYPE_CHECKING:
    from gateway.receive.deps import Deps

# The body of a refused request is read to its end if it is this small, so that the connection can be kept.
SMALL_BODY_BYTES: Final = 64 * 1024
# How many parts of a body are kept as they came; beyond this they are joined, as each costs 50 bytes of overhead.
_MAX_PARTS: Final = 256
# If the body took longer than this to arrive, the key is checked again: it may have expired.
_FRESH_SECONDS: Final = 1.0
_BOM: Final = b"\xef\xbb\xbf"
# Headers that are sent to the engine unchanged: the types of body and reply, and the W3C trace context.
_FORWARDED: Final = (b"content-type", b"accept", b"traceparent", b"tracestate")


class Incoming:
    """One request, as far as it has been received."""

    __slots__ = (
        "_piece_bytes",
        "_pieces",
        "_reservation",
        "_table",
        "address",
        "begun_at",
        "body",
        "caller",
        "error",
        "expects",
        "headers",
        "is_http10",
        "is_last",
        "keep_alive",
        "method",
        "reply_headers",
        "size",
        "url",
    )

    def __init__(self) -> None:
        self.url = b""
        self.method = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []  # of a large body only what came after the last whole piece
        self.reply_headers = b""  # extra header lines for its reply (CORS)
        self.size = 0
        self._reservation: BodyReservation | None = None  # made once the body is large
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._table: RouteTable | None = None  # the route table that admitted it
        self.begun_at = 0.0  # when the wait for its body began, in monotonic seconds
        self.address: RequestAddress
        self.caller: Principal
        self.error: LoragateError | None = None
        self.expects = False
        self.is_http10 = False
        self.keep_alive = True
        self.is_last = False  # where the next request would begin is unclear, so the connection is closed after it

    @classmethod
    def of_error(cls, error: LoragateError) -> "Incoming":
        """Return a stand-in for a request that cannot be read: it is answered with `error`, and is the last."""
        incoming = cls()
        incoming.error = error
        incoming.keep_alive = False
        incoming.is_last = True
        return incoming

    def admit(self, version: str, deps: "Deps", head_bytes: int) -> None:
        """Decide from the headers alone whether to read the body: framing, path, key, size and encoding.

        Args:
            version: The HTTP version.
            deps: The parts that the worker's connections share.
            head_bytes: Bytes received for this request so far, at least its head.

        Raises:
            LoragateError: The request is refused.
        """
        table, limits = deps.table(), deps.limits
        headers = self.headers
        cross_origin = deps.cross_origin
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
        if version != "1.1" or b"transfer-encoding" in headers or not is_host(headers.get(b"host", b",")):
            misframed = framing_problem(version, headers)
            if misframed is not None:
                self.is_last, self.keep_alive = True, False
                raise misframed
        address = self.address = find_endpoint(self.method, self.url)
        if address.endpoint.kind is not EndpointKind.HEALTH:
            if table.keys is None:
                check_without_keys(self.url, headers, deps.host_names, has_body=address.endpoint.method == b"POST")
            self._table = table
            self.caller = caller_of(headers, table.keys, deps.clock)
        length = headers.get(b"content-length")
        if length is not None and (size := int(length)) > min(SURELY_AT_ONCE_BYTES, limits.max_body_bytes):
            if size > limits.max_body_bytes:
                raise body_too_large(size, limits.max_body_bytes)
            if address.endpoint.kind is not EndpointKind.HEALTH:
                problem = deps.body_memory.problem(self.caller, size - SURELY_AT_ONCE_BYTES)
                if problem is not None:
                    raise problem
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise UnsupportedEncoding("Compressed bodies are not read; send the body without a content-encoding.")
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise ExpectationFailed("`Expect` may only be 100-continue.")
            self.expects = not self.is_http10

    def recheck_caller(self, table: RouteTable, now: float, clock: Callable[[], float]) -> None:
        """Authenticate again if the table has changed or the body was slow: the key may have been revoked or expired.

        Args:
            table: The current route table.
            now: Monotonic seconds.
            clock: Unix seconds.

        Raises:
            Unauthenticated: The key has been revoked, or has expired.
        """
        if self._table is not None and (self._table is not table or now - self.begun_at > _FRESH_SECONDS):
            self._table = table
            self.caller = caller_of(self.headers, table.keys, clock)

    def take(self, part: bytes, limits: Limits, memory: BodyMemory) -> None:
        """Keep a part of the body, unless the request is refused already. Sets `error` if the body is now too large."""
        self.size += len(part)
        if self.error is not None:
            return
        self.body.append(part)
        if self.size > SURELY_AT_ONCE_BYTES or self.size > limits.max_body_bytes or len(self.body) > _MAX_PARTS:
            self._gather(len(part), limits, memory)

    def _gather(self, size: int, limits: Limits, memory: BodyMemory) -> None:
        """Reserve memory for a large body, and join small parts."""
        needs_no_key = self.address.endpoint.kind is EndpointKind.HEALTH
        most = SURELY_AT_ONCE_BYTES if needs_no_key else limits.max_body_bytes
        if self.size > most:
            self.error = body_too_large(self.size, most)
        elif self.size > SURELY_AT_ONCE_BYTES:
            if self._reservation is None:
                self._reservation = BodyReservation(memory, self.caller)
                size = self.size - SURELY_AT_ONCE_BYTES
            self.error = memory.problem(self.caller, size)
            if self.error is None:
                self._reservation.add(size)
        if self.error is not None:
            self.drop()
            return
        tail = self.body
        if self.size - self._piece_bytes >= PIECE_BYTES:
            self._pieces.append(tail[0] if len(tail) == 1 else b"".join(tail))
            self._piece_bytes = self.size
            self.body = []
        elif len(tail) > _MAX_PARTS:
            self.body = [b"".join(tail)]

    def drop(self) -> None:
        """Free the body and its reservation."""
        self.body = []
        self._pieces = []
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def may_be_drained(self) -> bool:
        """Whether a refused request's body is small enough to be read and dropped, which keeps the connection open."""
        headers = self.headers
        if self.is_last or b"transfer-encoding" in headers or b"expect" in headers:
            return False
        return int(headers.get(b"content-length", b"0")) <= SMALL_BODY_BYTES

    def steps(self) -> Generator[None, None, Fields] | None:
        """Return a parser that reads a large body in steps; None if `request` should parse it at once."""
        if self.address.endpoint.method != b"POST":
            return None
        if self.size <= AT_ONCE_BYTES:
            self.body = [b"".join([*self._pieces, *self.body])]
            self._pieces = []
            if not takes_steps(self.body[0]):
                return None
        parts = [*self._pieces, *self.body]
        parts[0] = parts[0].removeprefix(_BOM)
        self._pieces, self.body = parts, []
        return read_in_steps(Pieces(parts))

    def request(
        self, request_id: bytes, table: RouteTable, rates: WorkerRates, received_at: float, fields: Fields | None = None
    ) -> Request:
        """Return the complete request, parsed and admitted under all rate limits that apply to it.

        Args:
            request_id: The id for `x-request-id`.
            table: The current route table.
            rates: The worker's rate limits.
            received_at: Monotonic seconds.
            fields: The body's fields, if it has been parsed in steps.

        Raises:
            RateLimited, Overloaded: A limit is exhausted.
            BadRequest: The body is invalid for the endpoint, or `x-loragate-arm` names no arm.
            Forbidden: The caller may not choose an arm.
        """
        endpoint, in_path = self.address.endpoint, self.address.model
        headers = self.headers
        body: bytes | Pieces
        if fields is not None:
            body = self._pieces[0] if len(self._pieces) == 1 else Pieces(self._pieces)
        else:
            parts = self.body
            body = parts[0] if len(parts) == 1 else b"".join([*self._pieces, *parts])
            if endpoint.method == b"POST":
                body = body.removeprefix(_BOM)
                fields = read(body)
        model = model_of(fields, endpoint, in_path, table.base.name if table.base else None)
        arm = headers.get(b"x-loragate-arm")
        extra = b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in _FORWARDED if name in headers])
        request = Request(
            request_id,
            endpoint,
            body,
            fields,
            self.caller,
            model,
            unit=headers.get(b"x-loragate-unit"),
            task=headers.get(b"x-loragate-task"),
            arm=None if arm is None else parse_arm(arm, self.caller),
            keep_alive=self.keep_alive,
            is_http10=self.is_http10,
            extra_headers=extra,
            received_at=received_at,
        )
        request.reply_headers = self.reply_headers
        if table.unit_headers:
            request.unit_headers = {name: headers[name] for name in table.unit_headers if name in headers}
        if self.caller.rates is not None or table.has_rates:
            request.lease = rates.admit(self.caller, table, model, received_at)
        self.body = []  # the connection may be idle for long after this
        self._pieces = []
        request.reservation, self._reservation = self._reservation, None
        return request

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers.items())


def headers_too_large(limits: Limits) -> HeadersTooLarge:
    """Return the error for a request with too many or too long headers."""
    return HeadersTooLarge(
        f"The headers are larger than {limits.max_header_bytes:,} bytes or more than {limits.max_headers}."
    )


def body_too_large(size: int, most: int) -> PayloadTooLarge:
    """Return the error for a body of at least `size` bytes where `most` are allowed."""
    return PayloadTooLarge(
        f"The body has {size:,} bytes or more; the limit is {most:,}. Send less in one "
        "request, or have the operator raise `limits.max_body_bytes`."
    )
