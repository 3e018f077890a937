"""One request under way: from a complete call to the last byte of its reply.

Belongs to one client connection. Sends the call to an engine, hands each part of the
reply on as it comes, tries once more elsewhere if the engine fails before the first byte, and ends a stream in-band
if it fails after. A stream that is silent for long gets comments, if need be before any engine's head
(`early_head.py`). Before that it may have to wait: until its version has been loaded, or until an engine has room
(`delay.py`). Knows no sockets, only its client's `write` and its engine's `Link`.
"""

from time import monotonic
from typing import Final

from gateway.decide.health import FAILED_STATUSES, EngineFailure
from gateway.errors import EngineFailed, EngineTimeout, LoragateError, Saturated, VersionNotReady
from gateway.pipeline import Placement
from gateway.ports import Link, ReplyHead
from gateway.receive.accounting import RequestAccounting, decide
from gateway.receive.delay import Delay
from gateway.receive.deps import Deps
from gateway.receive.early_head import COMMENT_CHUNK, early_end, early_head, is_silent_for_long
from gateway.receive.engine_request import asks_for_usage, encode_request
from gateway.receive.failures import refusal
from gateway.receive.reply import Reply
from gateway.receive.reply_to import ReplyTo
from gateway.receive.request import Request
from gateway.serve.content import is_keep_alive

NOT_FOUND: Final = 404
# The first engine, and one more.
ATTEMPTS: Final = 2
# How often a request may find its version gone from an engine that was said to have it: 1 in 3 times when few slots
# change hands all the time, always when the engine keeps nothing.
LOSSES: Final = 20
# Idle connections that may turn out dead for one request, before that counts as the engine's failure.
STALE_CONNECTIONS: Final = 3


class Exchange:
    """A request and its reply, between one client and one engine.

    Args:
        deps: What the worker's connections share.
        client: Where the reply goes.
        request: Which is served.
    """

    __slots__ = (
        "_accounting",
        "_attempts",
        "_client",
        "_commented_at",
        "_delay",
        "_deps",
        "_heard_at",
        "_hides_usage",
        "_is_allowed",
        "_link",
        "_losses",
        "_placement",
        "_reply",
        "_request",
        "_sent_at",
        "_stale",
        "has_begun",
        "is_over",
        "is_there",
        "tried",
    )

    def __init__(self, deps: Deps, client: ReplyTo, request: Request) -> None:
        self._deps = deps
        self._client = client
        self._request = request
        self._attempts = self._stale = self._losses = 0
        self.tried: tuple[str, ...] = ()
        self._link: Link | None = None
        self._placement: Placement
        self._accounting = RequestAccounting(request, deps.ledger, deps.tallies)
        self._hides_usage = False
        self._reply: Reply | None = None
        self._sent_at = self._heard_at = self._commented_at = 0.0  # heard: the engine's last sign of life
        self._delay: Delay | None = None  # once it has had to wait before an engine had it
        self.is_there = False  # the engine that says that it lacks the version has it: a 404 is its own answer
        self._is_allowed = False  # to ask an engine for what it asks for
        self.has_begun = False  # the head has gone to the client: the engine's, or before that ours
        self.is_over = False

    # Who serves it

    def begin(self) -> None:
        """Decide who serves, and send; may be over at once, with an error."""
        try:
            if not self._is_allowed:
                self._deps.engine_fields.check(self._request, self._deps.table())
                self._is_allowed = True
            placed = self.decide(self.tried)
        except Saturated as saturated:
            self._ensure_delay().join_or_fail(saturated.version)
        except VersionNotReady as error:
            if error.version and not self.tried:
                self._ensure_delay().park(error.version, None)
            else:
                self.fail(error)
        except LoragateError as error:
            self.fail(error)
        else:
            queue = self._deps.placing.queue
            if queue.lines and (placed.version, self.tried) in queue.lines:  # others have waited for this room
                self._ensure_delay().join_or_fail(placed.version)
                queue.on_place_free()
            else:
                self.send(placed)

    def decide(self, tried: tuple[str, ...]) -> Placement:
        """Return who serves the request now; `tried` are engines that have failed it."""
        deps, request = self._deps, self._request
        table = deps.table()
        if self._delay is not None or tried:  # time has passed since its caller was looked at
            deps.callers.check(request.caller, table)
        return decide(request, table, deps.engines.in_flight, tried, deps.placing.terms(request, table))

    def send(self, placed: Placement) -> None:
        """Send it there; one that had to wait comes back here by way of `Delay`."""
        deps, client = self._deps, self._client
        self._placement = placed
        self._accounting.move_to(placed)
        self._hides_usage = ask_usage = asks_for_usage(self._request)
        try:
            data = encode_request(self._request, placed.version, ask_usage=ask_usage)
        except LoragateError as error:
            self.fail(error)
            return
        self._attempts += 1
        self._sent_at = self._heard_at = monotonic()
        client.waits_for_engine()
        deps.placing.on_sent(placed.engine_url, self)
        link = deps.engines.send(placed.engine_url, data, self)
        if not self.is_over:
            self._link = link

    def _retry_elsewhere(self, *, same_engine: bool) -> bool:
        """Whether another engine takes the request now, or control on the same one where that may help; once."""
        url = self._placement.engine_url
        if self._attempts >= ATTEMPTS:
            return False
        tried = (*self.tried, url)
        try:
            placed = self.decide(tried)
        except Saturated as saturated:
            if not self._ensure_delay().join((saturated.version, tried)):
                return False
            self.tried = tried
            self._drop_link()
            return True
        except LoragateError:
            return False
        if placed.engine_url == url and not same_engine:
            return False
        self.tried = tried
        self._drop_link()
        self.send(placed)
        return True

    def _ensure_delay(self) -> Delay:
        if self._delay is None:
            self._delay = Delay(self._deps, self._client, self)
        return self._delay

    # Reader: what the engine connection calls

    def on_sent(self) -> None:
        self._sent_at = sent_at = monotonic()
        self._deps.supply.recent[self._placement.version] = sent_at
        if not self.tried:  # else what an engine took to fail would be ours
            waited = self._delay.seconds if self._delay is not None else 0.0
            self._accounting.cell.observe_overhead(sent_at - self._request.received_at - waited)

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        if head is not None and self._intercept(head.status):
            return
        now = monotonic()
        out = self._head(head, now) if head is not None else b""
        reply = self._reply
        assert reply is not None  # a head comes first
        out += reply.body(data, now, is_complete=is_complete)
        if is_complete:
            self._link = None  # its connection is free for others: a write below must not pause it
        if out:
            self._client.write(out)
        if is_complete:
            self._end(reply, now)
            return
        if head is not None:
            self._accounting.drop_body()  # no other try can come, and a stream may be long
        if is_keep_alive(data):  # which an engine sends while a request waits, too
            self._commented_at = now
        else:
            self._heard_at = now

    def on_chunk(self, chunk: bytes) -> None:
        """One HTTP chunk of whole events, in its framing."""
        reply, now = self._reply, monotonic()
        if reply is not None and reply.passes(chunk, now):
            self._heard_at = now
            self._client.write(chunk)
        else:
            self.on_reply(None, chunk[chunk.index(b"\r\n") + 2 : -2], False)

    def _intercept(self, status: int) -> bool:
        """Whether something better than passing this reply on is under way; tells its engine's health."""
        placed, placing = self._placement, self._deps.placing
        if status in FAILED_STATUSES:
            placing.on_failure(placed.engine_url, EngineFailure.STATUS, self._sent_at)
            return self._retry_elsewhere(same_engine=True)
        placing.on_success(placed.engine_url, self._sent_at)
        return status == NOT_FOUND and self._reload_if_missing()

    def _reload_if_missing(self) -> bool:
        """Whether to have an adapter looked for where it should be, instead of passing a 404 on.

        An engine that somebody restarted has forgotten its adapters; one that has just evicted
        this one may not have read our request before. An engine that has it after all is believed.
        """
        placed = self._placement
        if self.is_there or "@" not in placed.version:
            return False
        self._losses += 1
        if self._losses > LOSSES:  # each time it was loaded again: for ever, if nobody stops
            self.fail(VersionNotReady(f"The engine does not keep `{placed.version}`. Try again."))
            return True
        self._attempts = 0
        self._drop_link()
        self._ensure_delay().park(placed.version, placed.engine_url)
        return True

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        self._link = None
        deps, url = self._deps, self._placement.engine_url
        deps.fingerprints.pop(url, None)  # what comes back may be another
        if self.is_over:
            return
        if self._reply is None:
            deps.placing.on_abandoned(url, self)
            if is_stale and self._stale < STALE_CONNECTIONS:  # closed before our request came: not its fault
                self._stale += 1
                self._attempts -= 1
                self.begin()
                return
            failure = EngineFailure.LOST if isinstance(error, EngineFailed) else EngineFailure.CONNECTION
            deps.placing.on_failure(url, failure, self._sent_at)
            if self._retry_elsewhere(same_engine=True):
                return
        self.fail(error)  # nowhere else to go: the first reason is the one that helps

    # The reply

    def _head(self, head: ReplyHead, now: float) -> bytes:
        """Return the head for the client, unless it has one; keep what reads the body on its way."""
        deps, client, request, placed = self._deps, self._client, self._request, self._placement
        if self._delay is not None and self._delay.seconds_for_load:
            self._accounting.cell.observe_load_wait(self._delay.seconds_for_load)
        known = deps.fingerprints.get(placed.engine_url)
        is_early = self.has_begun
        self._reply = reply = Reply(
            head, request, self._accounting.cell, hides_usage=self._hides_usage, fingerprint=known, is_early=is_early
        )
        request.keep_alive = request.keep_alive and (is_early or not client.is_draining)
        self.has_begun = True
        if placed.mirror is not None:
            reply.tap = deps.taps.of(request, placed, head, self._sent_at)
        deps.recent.note((request.id, placed, request.caller))
        if is_early:
            return b""
        return reply.head(head, request, placed, self._sent_at - request.received_at + monotonic() - now)

    # The end

    def _end(self, reply: Reply, now: float) -> None:
        reply.on_complete(self._deps.fingerprints, self._placement.engine_url)
        self._close_books(reply.status, now)
        self._client.exchange_is_over(keep_alive=self._request.keep_alive)

    def fail(self, error: LoragateError) -> None:
        """End the reply with `error`: as a reply if none has begun, else in-band, else by closing."""
        if self.is_over:
            return
        client, request, reply = self._client, self._request, self._reply
        was_at_work = self._drop_link()
        self._accounting.count_error(error.code)
        status = error.status if reply is None else reply.status
        self._close_books(status, monotonic(), has_failed=reply is not None, was_at_work=was_at_work)
        if not self.has_begun:
            keep_alive = request.keep_alive and not client.is_draining
            client.write(refusal(request, error, keep_alive=keep_alive))
            client.exchange_is_over(keep_alive=keep_alive)
            return
        dialect = request.endpoint.dialect
        event = early_end(error, dialect) if reply is None else reply.end_with(error, dialect)
        if event is None:
            client.abort()  # a length was promised: only a broken connection says that it was not kept
        else:
            client.write(event)
            client.exchange_is_over(keep_alive=request.keep_alive and (reply is None or reply.has_an_end))

    def client_gone(self) -> None:
        """Nobody listens any more: free the engine at once."""
        if not self.is_over:
            was_at_work = self._drop_link()
            # nginx's code for a client that closed; it is never sent, only counted.
            status = 499 if self._reply is None else self._reply.status
            self._close_books(status, monotonic(), client_left=True, was_at_work=was_at_work)

    def _drop_link(self) -> bool:
        """Stop the engine's work on it; whether there was any."""
        link, self._link = self._link, None
        if link is not None:
            link.cancel()
            self._deps.placing.on_abandoned(self._placement.engine_url, self)
        return link is not None

    def _close_books(
        self, status: int, now: float, *, client_left: bool = False, has_failed: bool = False, was_at_work: bool = False
    ) -> None:
        """Count the end; every end passes here, once."""
        self.is_over = True
        if self._delay is not None:
            self._delay.leave()
        if self._accounting.served is not None:
            self._deps.placing.on_abandoned(self._placement.engine_url, self)
        self._accounting.close(
            self._reply, status, now, client_left=client_left, has_failed=has_failed, was_at_work=was_at_work
        )

    # What its connection asks and tells

    @property
    def is_http10(self) -> bool:
        """Whether the client speaks HTTP/1.0."""
        return self._request.is_http10

    def comment(self) -> bytes:
        """Return bytes that a reply which has begun may carry without meaning; none if there are none."""
        if self._reply is not None:
            return self._reply.comment()
        return COMMENT_CHUNK if self.has_begun else b""

    def check(self, now: float) -> None:
        """Give up what has taken longer than it may, or go elsewhere if the engine is stuck, or say that it lives."""
        limits = self._deps.limits
        if self._delay is not None and self._delay.is_on:
            error = self._delay.overdue(now)
            if error is not None:
                self.fail(error)
        elif self._reply is not None:
            # vLLM sends the head of a stream at once: what comes late is its first content.
            is_first = self._reply.waits_for_content
            seconds = limits.first_byte_seconds if is_first else limits.idle_seconds
            if now - self._heard_at >= seconds:
                self.fail(EngineTimeout(f"The engine sent nothing {'' if is_first else 'more '}for {seconds:g} s."))
        else:
            self._check_first_byte(now)
        if not self.is_over:
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        """Write a comment to a stream that has been silent for long, after its head if no engine has sent one."""
        deps, client, request = self._deps, self._client, self._request
        last = self._commented_at if self._reply is None else max(self._commented_at, self._heard_at)
        is_silent = is_silent_for_long(request, deps.limits, now, last if self.has_begun else None)
        if not is_silent or client.unsent_bytes():  # or it does not read what there is
            return
        head = b""
        if not self.has_begun:
            self.has_begun = True
            request.keep_alive = request.keep_alive and not client.is_draining
            head = early_head(request)
            deps.placing.counts.early_heads += 1
        self._commented_at = now
        client.write(head + self.comment())

    def _check_first_byte(self, now: float) -> None:
        deps, url = self._deps, self._placement.engine_url
        waited = now - self._heard_at
        is_stuck = deps.placing.is_stuck(url, deps.engines, waited, now, is_stream=self._request.is_streamed)
        if is_stuck and self._retry_elsewhere(same_engine=False):
            return
        if waited >= deps.limits.first_byte_seconds:
            deps.placing.on_failure(url, EngineFailure.TIMEOUT, self._sent_at)
            self.fail(EngineTimeout(f"The engine sent no reply for {deps.limits.first_byte_seconds:g} s."))

    def pause(self) -> None:
        """The client is slower than the engine."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """The client has caught up; the engine's silence counts from now."""
        self._heard_at = monotonic()
        if self._link is not None:
            self._link.resume()
