"""Teacher forcing: have two versions score the same token ids, and measure how far apart they are.

The token ids are the engine's own. A replay's ids come with its reply. A caller's reply is text, so the engine
tokenizes it, and the ids count only if they detokenize to the same text. A request for `prompt_logprobs` needs memory
for a row of the vocabulary per token, and vLLM on CPUs crashes on two at once where its fault is not fixed
(vllm-project/vllm #16668). So each engine gets one at a time, over all evaluators.

Both versions are asked for the same number of likeliest tokens. An engine that allows fewer (`--max-logprobs`) says how
many, and is asked for that many from then on: the bound on the drift is looser then and the estimate varies more, but
both stay correct.
"""

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from evaluators.drift.token_kl import TOP, VERSION, drift_of
from evaluators.observation import Drift, NoDrift
from gateway.evaluate.calls import CallFailed
from gateway.evaluate.engines import Engine
from gateway.store.errors import StoreError

# The pause between two tries to take an engine's lease from another evaluator; scoring a short reply takes 0.1 s.
_POLL_SECONDS: Final = 0.2
# A lease is renewed while it is used. When an evaluator dies, its engine is not scored on for at most this long.
LEASE_SECONDS: Final = 10.0
# Bytes of JSON for one likeliest token at one position: usually 80 to 100, more if its text is long or escaped.
_BYTES_PER_LOGPROB: Final = 256
_OK: Final = 200
_BAD_REQUEST: Final = 400
# vLLM's message when more than its `--max-logprobs` are asked for (vllm/sampling_params.py, `_validate_logprobs`).
_TOO_MANY: Final = re.compile(rb"prompt logprobs of \d+, which is greater than max allowed: (\d+)")

log = logging.getLogger("loragate.evaluate")


class ScoringLeases(Protocol):
    """Leases by name over many processes; both methods block. `gateway.store.leases.Leases` implements it."""

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease; False while another holder has it."""

    def release(self, name: str, holder: str) -> None:
        """End a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringBounds:
    """The bounds on scoring.

    Attributes:
        top: How many of the likeliest tokens are asked for at each position.
        at_once: Scoring requests on one engine; 1 holds over all evaluators, a larger number for this one only.
        tokens: The longest prompt with reply.
        seconds: The bound on one prefill.
        both_answers: Score both answers of a pair; otherwise a coin draws one.
    """

    top: int = TOP
    at_once: int = 1
    tokens: int = 8192
    seconds: float = 60.0
    both_answers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringInput:
    """The tokens to score.

    Attributes:
        prompt, reply: Token ids.
        temperature: The temperature at which the reply was drawn.
        text: The reply's text; None where the ids hold more than this text.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    temperature: float | None = None
    text: str | None = None


class _Refused(Exception):
    """There is no score; the message says why in one word."""


class _TooMany(_Refused):
    """The engine allows only `allowed` of the likeliest tokens at each position."""

    def __init__(self, allowed: int) -> None:
        super().__init__("max_logprobs")
        self.allowed = allowed


class Scorer:
    """Measures drift on engines.

    Args:
        leases: One lease for each engine, shared by all evaluators.
        holder: This evaluator's name.
        bounds: The bounds on scoring.
    """

    def __init__(self, leases: ScoringLeases, holder: str, bounds: ScoringBounds) -> None:
        self._leases = leases
        self._holder = holder
        self._bounds = bounds
        self._places: dict[str, asyncio.Semaphore] = {}
        self._holding: set[str] = set()
        self._lock = threading.Lock()
        self._most_top: dict[str, int] = {}  # engine → likeliest tokens, where it allows fewer than `bounds.top`

    @property
    def both_answers(self) -> bool:
        return self._bounds.both_answers

    async def ids_of(self, engine: Engine, model: str, text: str) -> tuple[int, ...] | NoDrift:
        """Return the token ids of a reply's text, without special tokens; `not_round_trip` if they detokenize to
        another text.
        """
        if not text:
            return _no_drift("no_tokens")
        try:
            ids = await self._tokenize(engine, {"model": model, "prompt": text, "add_special_tokens": False})
            reply = await self._ask(engine, "/detokenize", {"model": model, "tokens": ids}, 8 * len(text) + 65_536)
            if reply.get("prompt") != text:
                return _no_drift("not_round_trip")
        except _Refused as refused:
            return _no_drift(str(refused))
        return ids

    async def ids_of_prompt(self, engine: Engine, body: dict[str, Any]) -> tuple[int, ...] | NoDrift:
        """Return the prompt's token ids; `body` is that of a request to `/tokenize`."""
        try:
            return await self._tokenize(engine, body)
        except _Refused as refused:
            return _no_drift(str(refused))

    async def drift(
        self, engine: Engine, scoring_input: ScoringInput, served: str, other: str
    ) -> tuple[Drift | NoDrift, int]:
        """Return how far `other` is from `served`, which drew the reply, and the tokens that measuring has cost."""
        ids = (*scoring_input.prompt, *scoring_input.reply)
        most = min(self._bounds.tokens, engine.most_tokens - 1 if engine.most_tokens else self._bounds.tokens)
        if not scoring_input.reply:
            return _no_drift("no_tokens"), 0
        if len(ids) > most:
            return _no_drift("too_long"), 0
        cost = 0
        try:
            logprobs = []
            async with self._lease(engine):
                for version in (served, other):  # even if both are the same: then the drift is the engine's noise
                    cost += len(ids)
                    logprobs.append(await self._score(engine, version, ids))
        except _Refused as refused:
            return _no_drift(str(refused)), cost
        return drift_of(
            ids,
            len(scoring_input.prompt),
            logprobs[0],
            logprobs[1],
            top=self._top(engine),
            temperature=scoring_input.temperature,
            text=scoring_input.text,
        ), cost

    def _top(self, engine: Engine) -> int:
        """Return how many of the likeliest tokens an engine is asked for."""
        return min(self._bounds.top, self._most_top.get(engine.url, self._bounds.top))

    async def _score(self, engine: Engine, version: str, ids: Sequence[int]) -> list[Any]:
        try:
            reply = await self._ask_score(engine, version, ids)
        except _TooMany as refused:
            log.warning(
                "%s tells the %d likeliest tokens at most, %d are wished: drift's bound is looser (--max-logprobs)",
                engine.url,
                refused.allowed,
                self._top(engine),
            )
            self._most_top[engine.url] = refused.allowed
            reply = await self._ask_score(engine, version, ids)
        engine.spend(len(ids))
        try:
            logprobs = reply["choices"][0]["prompt_logprobs"]
        except (KeyError, IndexError, TypeError):
            raise _Refused("garbled") from None
        if not isinstance(logprobs, list):
            raise _Refused("no_logprobs")
        return logprobs

    async def _ask_score(self, engine: Engine, version: str, ids: Sequence[int]) -> dict[str, Any]:
        top = self._top(engine)
        body = {"model": version, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
        await engine.idle()
        most_bytes = 1_048_576 + _BYTES_PER_LOGPROB * (top + 1) * len(ids)
        return await self._ask(engine, "/v1/completions", body, most_bytes)

    async def _tokenize(self, engine: Engine, body: dict[str, Any]) -> tuple[int, ...]:
        reply = await self._ask(engine, "/tokenize", body, 1_048_576 + 16 * self._bounds.tokens)
        ids = reply.get("tokens")
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            raise _Refused("no_token_ids")
        return tuple(ids)

    async def _ask(self, engine: Engine, path: str, body: dict[str, Any], most_bytes: int) -> dict[str, Any]:
        try:
            reply = await engine.ask(path, body, seconds=self._bounds.seconds, most_bytes=most_bytes)
        except CallFailed as failed:
            raise _Refused(failed.reason) from None
        if reply.status == _BAD_REQUEST and (few := _TOO_MANY.search(reply.body)):
            raise _TooMany(int(few[1]))
        if reply.status != _OK:
            raise _Refused(f"status_{reply.status}")
        try:
            value = msgspec.json.decode(reply.body)
        except ValueError:
            raise _Refused("garbled") from None
        if not isinstance(value, dict):
            raise _Refused("garbled")
        return value

    @contextlib.asynccontextmanager
    async def _lease(self, engine: Engine) -> AsyncIterator[None]:
        bounds = self._bounds
        place = self._places.setdefault(engine.url, asyncio.Semaphore(bounds.at_once))
        async with place:
            if bounds.at_once > 1:
                yield
                return
            name = f"score {engine.url}"
            keeping: asyncio.Task[None] | None = None
            try:
                if not await _until(lambda: self._take(name), bounds.seconds):
                    raise _Refused("no_turn")
                keeping = asyncio.ensure_future(self._keep(name))
                yield
            finally:
                if keeping is not None:
                    keeping.cancel()
                await asyncio.shield(asyncio.to_thread(self._release, name))

    async def _keep(self, name: str) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(StoreError, OSError):  # the store is away: one more try before it runs out
                await asyncio.to_thread(self._renew, name)

    def _take(self, name: str) -> bool:
        # Without the store no lease can be taken.
        with self._lock, contextlib.suppress(StoreError, OSError):
            if self._leases.take(name, self._holder, LEASE_SECONDS):
                self._holding.add(name)
                return True
        return False

    def _renew(self, name: str) -> None:
        with self._lock:  # a running thread cannot be cancelled, so it checks that the lease was not released
            if name in self._holding:
                self._leases.take(name, self._holder, LEASE_SECONDS)

    def _release(self, name: str) -> None:
        # While the store is away, the lease runs out by itself.
        with self._lock, contextlib.suppress(StoreError, OSError):
            self._holding.discard(name)
            self._leases.release(name, self._holder)


def _no_drift(reason: str) -> NoDrift:
    return NoDrift(reason=reason, version=VERSION)


async def _until(take: Callable[[], bool], seconds: float) -> bool:
    """Call `take` until it succeeds; False if it does not within `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await asyncio.to_thread(take):
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
