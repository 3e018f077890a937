"""A request that comes twice is carried out once: `Idempotency-Key` on what changes something.

What the first request was answered is kept for a day, and so is a refusal (4xx): who wants
another try takes another key. A failure (5xx) is forgotten, and the same key may try again.
The reply that holds a new key is never kept: a repeat is told which key was made, not the key.
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
# Their replies hold a secret, in the field `key`.
SHOW_A_KEY: Final = frozenset(("POST /admin/v1/keys", "POST /admin/v1/keys/{key_id}/rotate"))
# Replies that come bit by bit are kept nowhere.
STREAMED: Final = "application/x-ndjson"
_NOT_USABLE: Final = "invalid_idempotency_key"
# While a request is worked on, its claim is renewed so often that it does not run out.
RENEW_SECONDS: Final = WORK_SECONDS / 3


class _Kept(msgspec.Struct, frozen=True):
    """What is kept of a reply beside its status."""

    text: str
    etag: str | None = None


class Idempotent:
    """Carries a request with an idempotency key out once, and answers its repeats with the same reply.

    Args:
        app: What carries it out. `request.state.caller` and `.operation` are set by the guard before.
        keys: Returns where replies are kept.
        renew_seconds: How often a claim is renewed while the request is worked on.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Callable[[], IdempotencyKeys], renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._app = app
        self._keys = keys
        self._renew_seconds = renew_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or answer it with what was answered before."""
        is_change = scope["type"] == "http" and scope["method"] in METHODS
        if not is_change or HEADER not in Headers(scope=scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            name = f"{request.state.caller}:{_key_of(request.headers)}"
            body = await request.body()
            known = await asyncio.to_thread(self._keys().claim, name, _digest(request, body))
        except ClientDisconnect:
            return
        except (BadRequest, HTTPException, StoreError, KeyReused, StillRunning) as error:
            await refusal(error)(scope, receive, send)
            return
        if known is not None:
            await _replay(known)(scope, receive, send)
            return
        messages = await self._carried_out(scope, body, receive, name)
        for message in messages:
            await send(message)

    async def _carried_out(self, scope: Scope, body: bytes, receive: Receive, name: str) -> list[Message]:
        """Return the reply, which is kept by then, or forgotten if the request failed."""
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
        except Exception:  # whatever it was, nothing was answered: the claim is freed, and the error goes on its way
            await self._end(keys.release, name)
            raise
        finally:
            if not task.done():  # we are cancelled: what was done is not known, and the claim runs out by itself
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
        except StoreError as error:  # what was done is done, and its caller is told
            log.warning("the reply to a request with an idempotency key is not kept: %s", error)


def _key_of(headers: Headers) -> str:
    given = headers.getlist(HEADER)
    key = given[0]
    if len(given) > 1 or not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise BadRequest(
            f"`Idempotency-Key: {', '.join(given)[:100]}` is none; send one of 1 to {MAX_KEY} printable "
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
    """Return what tells one request from another."""
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
    """Return a `receive` for a body that was read already."""
    is_read = False

    async def again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _reply_of(operation: str | None, messages: list[Message]) -> StoredReply:
    """Return a reply as it is kept."""
    start = messages[0]
    status: int = start["status"]
    body = b"".join(message.get("body", b"") for message in messages[1:])
    if operation in SHOW_A_KEY and status < 400:
        made = str(msgspec.json.decode(body)["id"])
        told = refusal(
            KeyWasMade(
                f"This was carried out before: it made the key `{made}`, which was shown once and is kept nowhere. "
                f"If you do not have it, revoke `{made}`, and make another with another idempotency key."
            )
        )
        status, body = told.status_code, bytes(told.body)
    return StoredReply(
        status=status,
        body=msgspec.json.encode(_Kept(text=body.decode(), etag=Headers(raw=start["headers"]).get("etag"))).decode(),
    )


def _replay(reply: StoredReply) -> Response:
    kept = msgspec.json.decode(reply.body, type=_Kept)
    headers = {REPLAYED: "true"} | ({"etag": kept.etag} if kept.etag is not None else {})
    return Response(kept.text, reply.status, headers, media_type="application/json")
