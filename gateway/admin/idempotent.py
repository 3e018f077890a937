"""Carry out a repeated request only once: support for `Idempotency-Key` on requests that change something.

The reply to the first request is stored for a day, also if it is a refusal (4xx): a client that wants
another try sends another idempotency key. A failure (5xx) is not stored, and the same key may be used again.
A reply that contains a new API key is never stored: the reply to a repeat names the API key's id, not the key.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.failures import refusal
from gateway.errors import BadRequest
from gateway.store.errors import StoreError
from gateway.store.idempotency import WORK_SECONDS, IdempotencyKeys, KeyReused, KeyWasMade, StillRunning, StoredReply

log = logging.getLogger("loragate.admin")

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotency-replayed"
METHODS: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))
MAX_KEY: Final = 255
# Operations whose replies contain a secret, in the field `key`.
SHOW_A_KEY: Final = frozenset(("POST /admin/v1/keys", "POST /admin/v1/keys/{key_id}/rotate"))
# The content type of streamed progress; streamed replies are not stored.
STREAMED: Final = "application/x-ndjson"
_NOT_USABLE: Final = "invalid_idempotency_key"
# How often the claim on an idempotency key is renewed while its request is carried out: a third of the claim's
# lifetime, so that one failed renewal does not lose the claim.
RENEW_SECONDS: Final = WORK_SECONDS / 3


class _Kept(msgspec.Struct, frozen=True):
    """The parts of a reply that are stored beside its status."""

    text: str
    etag: str | None = None


class Idempotent:
    """ASGI middleware that carries out a request with an idempotency key once, and gives its repeats the same reply.

    Args:
        app: The application behind it. The guard before it has set `request.state.caller` and `.operation`.
        keys: Returns the store of idempotency keys and replies.
        renew_seconds: How often a claim is renewed while its request is carried out.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Callable[[], IdempotencyKeys], renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._app = app
        self._keys = keys
        self._renew_seconds = renew_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or answer a repeat with the stored reply."""
        is_change = scope["type"] == "http" and scope["method"] in METHODS
        if not is_change or HEADER not in Headers(scope=scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            name = f"{request.state.caller}:{_key_of(request.headers)}"
            body = await request.body()
            stored = await asyncio.to_thread(self._keys().claim, name, _digest(request, body))
        except ClientDisconnect:
            return
        except (BadRequest, HTTPException, StoreError, KeyReused, StillRunning) as error:
            await refusal(error)(scope, receive, send)
            return
        if stored is not None:
            await _replay(stored)(scope, receive, send)
            return
        messages = await self._carry_out(scope, body, receive, name)
        for message in messages:
            await send(message)

    async def _carry_out(self, scope: Scope, body: bytes, receive: Receive, name: str) -> list[Message]:
        """Run the request and return its reply; store the reply, or release the claim if the request failed."""
        keys = self._keys()
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        task = asyncio.ensure_future(self._app(scope, _read_before(body, receive), collect))
        try:
            while not task.done():
                done, _ = await asyncio.wait([task], timeout=self._renew_seconds)
                if not done:
                    with suppress(StoreError):
                        await asyncio.to_thread(keys.renew, name)
            task.result()
        except Exception:  # there is no reply to store, so the claim is released and the error goes to its handler
            await self._end(keys.release, name)
            raise
        finally:
            if not task.done():  # cancelled: how far the request got is unknown, so its claim is left to expire
                task.cancel()
                await asyncio.wait([task])
        reply = _reply_of(scope["state"]["operation"], messages)
        if reply.status >= 500:
            await self._end(keys.release, name)
        else:
            await self._end(keys.settle, name, reply)
        return messages

    async def _end(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
        except StoreError as error:  # the request itself has been carried out, and its caller still gets the reply
            log.warning("the reply to a request with an idempotency key could not be stored: %s", error)


def _key_of(headers: Headers) -> str:
    values = headers.getlist(HEADER)
    key = values[0]
    if len(values) > 1 or not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise BadRequest(
            f"`Idempotency-Key: {', '.join(values)[:100]}` is none; send one of 1 to {MAX_KEY} printable "
            "ASCII characters, such as a UUID.",
            code=_NOT_USABLE,
        )
    if STREAMED in headers.get("accept", ""):
        raise BadRequest(
            f"A reply as `{STREAMED}` is told as it happens and is not kept; leave out `Idempotency-Key`, or `Accept`.",
            code=_NOT_USABLE,
        )
    return key


def _digest(request: Request, body: bytes) -> str:
    """Return a hash of everything that must be equal in a repeat of the request."""
    scope, headers = request.scope, request.headers
    parts = (
        scope["method"].encode(),
        scope["path"].encode(),
        scope["query_string"],
        headers.get("if-match", "").encode(),
        headers.get("content-type", "").encode(),
        body,
    )
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()


def _read_before(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI `receive` that replays a body which was read already."""
    is_read = False

    async def again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _reply_of(operation: str | None, messages: list[Message]) -> StoredReply:
    """Return the reply to store; for operations that show a key, a refusal in its place."""
    start = messages[0]
    status: int = start["status"]
    body = b"".join(message.get("body", b"") for message in messages[1:])
    if operation in SHOW_A_KEY and status < 400:
        key_id = str(msgspec.json.decode(body)["id"])
        answer = refusal(
            KeyWasMade(
                f"This was carried out before: it made the key `{key_id}`, which was shown once and is kept nowhere. "
                f"If you do not have it, revoke `{key_id}`, and make another with another idempotency key."
            )
        )
        status, body = answer.status_code, bytes(answer.body)
    return StoredReply(
        status=status,
        body=msgspec.json.encode(_Kept(text=body.decode(), etag=Headers(raw=start["headers"]).get("etag"))).decode(),
    )


def _replay(reply: StoredReply) -> Response:
    stored = msgspec.json.decode(reply.body, type=_Kept)
    headers = {REPLAYED: "true"} | ({"etag": stored.etag} if stored.etag is not None else {})
    return Response(stored.text, reply.status, headers, media_type="application/json")
