"""One proxied request: from the complete request to the last byte of its reply.

An exchange belongs to one client connection. It sends the request to an engine and passes each part of the reply on as
it comes. If the engine fails before the first byte, it retries once on another engine; if the engine fails later, it
ends the stream with an in-band error event. A stream that is silent for long gets comments, if need be before any
engine's head (`early_head.py`). Before it is sent, a request may have to wait until its version is loaded or an engine
has room (`delay.py`). The exchange knows no sockets, only its client's `write` and its engine's `Link`.
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
# How many engines a request is sent to: the first, and one retry.
ATTEMPTS: Final = 2
# How often one request may get a 404 from an engine that was believed to have its version. Where few adapter slots
# change hands all the time that happens 1 in 3 times; with an engine that keeps nothing, always.
LOSSES: Final = 20
# How many idle connections may turn out to be closed for one request before that counts as the engine's failure.
STALE_CONNECTIONS: Final = 3


class Exchange:
    """A request and its reply, between one client and one engine.

    Args:
        deps: The parts that the worker's connections share.
        client: The connection that the reply goes to.
        request: The request to serve.
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
        self._sent_at = self._heard_at = self._commented_at = 0.0  # _heard_at: the engine's last sign of life
        self._delay: Delay | None = None  # made when the request first has to wait
        self.is_there = False  # the node has found the version on the engine: a 404 is then the engine's real answer
        self._is_allowed = False  # its fields have passed the policy for engine fields
        self.has_begun = False  # the head has gone to the client: the engine's, or an early one of the gateway's own
        self.is_over = False

    # Placing

    def begin(self) -> None:
        """Place the request and send it; or wait; or end at once with an error."""
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
            if queue.lines and (placed.version, self.tried) in queue.lines:  # first come, first served: others wait
                self._ensure_delay().join_or_fail(placed.version)
                queue.on_place_free()
            else:
                self.send(placed)

    def decide(self, tried: tuple[str, ...]) -> Placement:
        """Return where the request goes now; `tried` are the URLs of engines that have failed it."""
        deps, request = self._deps, self._request
        table = deps.table()
        if self._delay is not None or tried:  # time has passed: the caller's key may have been revoked or expired
            deps.callers.check(request.caller, table)
        return decide(request, table, deps.engines.in_flight, tried, deps.placing.terms(request, table))

    def send(self, placed: Placement) -> None:
        """Send the request to the engine of `placed`. A request that had to wait gets here through `Delay`."""
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
        """Retry on another engine, or if `same_engine` with control on the same one; False if no retry is possible."""
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
        if not self.tried:  # else the time that an engine took to fail would count as the gateway's overhead
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
            self._link = None  # other requests may use its connection now: the write below must not pause it
        if out:
            self._client.write(out)
        if is_complete:
            self._end(reply, now)
            return
        if head is not None:
            self._accounting.drop_body()  # no retry is possible any more, and a stream may be long
        if is_keep_alive(data):  # a comment by the engine, sent even while the request is in its queue
            self._commented_at = now
        else:
            self._heard_at = now

    def on_chunk(self, chunk: bytes) -> None:
        reply, now = self._reply, monotonic()
        if reply is not None and reply.passes(chunk, now):
            self._heard_at = now
            self._client.write(chunk)
        else:
            self.on_reply(None, chunk[chunk.index(b"\r\n") + 2 : -2], False)

    def _intercept(self, status: int) -> bool:
        """Whether this reply is not passed on, as a retry or a reload is under way; reports the engine's health."""
        placed, placing = self._placement, self._deps.placing
        if status in FAILED_STATUSES:
            placing.on_failure(placed.engine_url, EngineFailure.STATUS, self._sent_at)
            return self._retry_elsewhere(same_engine=True)
        placing.on_success(placed.engine_url, self._sent_at)
        return status == NOT_FOUND and self._reload_if_missing()

    def _reload_if_missing(self) -> bool:
        """Have an adapter that the engine answered 404 for loaded again; False if the 404 goes to the client.

        An engine that was restarted has lost its adapters, and one that evicted this adapter may have read the request
        only after that. If the node finds that the engine has the adapter (`is_there`), the 404 is the engine's answer.
        """
        placed = self._placement
        if self.is_there or "@" not in placed.version:
            return False
        self._losses += 1
        if self._losses > LOSSES:  # it was loaded again each time; without a bound this could go on for ever
            self.fail(VersionNotReady(f"The engine does not keep `{placed.version}`. Try again."))
            return True
        self._attempts = 0
        self._drop_link()
        self._ensure_delay().park(placed.version, placed.engine_url)
        return True

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        self._link = None
        deps, url = self._deps, self._placement.engine_url
        deps.fingerprints.pop(url, None)  # another engine may come up at this URL
        if self.is_over:
            return
        if self._reply is None:
            deps.placing.on_abandoned(url, self)
            if is_stale and self._stale < STALE_CONNECTIONS:  # closed before the request came: no engine failure
                self._stale += 1
                self._attempts -= 1
                self.begin()
                return
            failure = EngineFailure.LOST if isinstance(error, EngineFailed) else EngineFailure.CONNECTION
            deps.placing.on_failure(url, failure, self._sent_at)
            if self._retry_elsewhere(same_engine=True):
                return
        self.fail(error)  # no retry is possible: the first error is the most helpful one

    # The reply

    def _head(self, head: ReplyHead, now: float) -> bytes:
        """Make the `Reply` that the body will pass through; return the head for the client, empty if it has one."""
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
        """End with `error`: as a whole reply if none has begun, else as an in-band event, else by aborting."""
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
            client.abort()  # the head promised a length: only a broken connection tells the client that it is short
        else:
            client.write(event)
            client.exchange_is_over(keep_alive=request.keep_alive and (reply is None or reply.has_an_end))

    def client_gone(self) -> None:
        """The client has closed its connection: stop the engine's work at once."""
        if not self.is_over:
            was_at_work = self._drop_link()
            # nginx's status for a client that closed its connection; only counted, never sent.
            status = 499 if self._reply is None else self._reply.status
            self._close_books(status, monotonic(), client_left=True, was_at_work=was_at_work)

    def _drop_link(self) -> bool:
        """Cancel the request at its engine; whether it was at one."""
        link, self._link = self._link, None
        if link is not None:
            link.cancel()
            self._deps.placing.on_abandoned(self._placement.engine_url, self)
        return link is not None

    def _close_books(
        self, status: int, now: float, *, client_left: bool = False, has_failed: bool = False, was_at_work: bool = False
    ) -> None:
        """Account for the end of the request. Every ending calls this exactly once."""
        self.is_over = True
        if self._delay is not None:
            self._delay.leave()
        if self._accounting.served is not None:
            self._deps.placing.on_abandoned(self._placement.engine_url, self)
        self._accounting.close(
            self._reply, status, now, client_left=client_left, has_failed=has_failed, was_at_work=was_at_work
        )

    # Called by its connection

    @property
    def is_http10(self) -> bool:
        return self._request.is_http10

    def comment(self) -> bytes:
        """Return an SSE comment, framed for the reply; empty where the reply cannot carry one now."""
        if self._reply is not None:
            return self._reply.comment()
        return COMMENT_CHUNK if self.has_begun else b""

    def check(self, now: float) -> None:
        """Act on time-outs: fail, or retry elsewhere if the engine is stuck, or send a keep-alive comment."""
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
        """Write a comment to a stream that has been silent for long, with an early head if it has none yet."""
        deps, client, request = self._deps, self._client, self._request
        last = self._commented_at if self._reply is None else max(self._commented_at, self._heard_at)
        is_silent = is_silent_for_long(request, deps.limits, now, last if self.has_begun else None)
        if not is_silent or client.unsent_bytes():  # unsent bytes: the client does not even read what there is
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
        """Stop reading from the engine: the client is slower."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """Read on: the client has caught up. The engine's silence is measured from now."""
        self._heard_at = monotonic()
        if self._link is not None:
            self._link.resume()
