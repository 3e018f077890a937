"""Teacher forcing: have two versions score the same token ids, and measure how far apart they are.

Ids are the engine's own. Those of a replay come with it; a caller's reply is text, so the engine is asked for
its ids, and they count only if they give back the very text. vLLM on CPUs dies of two requests for
`prompt_logprobs` at once where its fault is not cured (vllm-project/vllm #16668), and everywhere they need
memory for a row of the vocabulary per token: one at a time on each engine, over all evaluators.

Both versions are asked for as many of the likeliest tokens. An engine that allows fewer (`--max-logprobs`) says how
many, and is asked for those from then on: the bound is looser then and the estimate varies more; neither is wrong.
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

# How often a turn that another evaluator has is asked for again: a score of a short reply takes 0.1 s.
_POLL_SECONDS: Final = 0.2
# A turn is prolonged while it is used, so that of an evaluator that died with it this much is lost.
TURN_SECONDS: Final = 10.0
# Of JSON for a token told at a position: 80 to 100 as a rule, more where its text is long or escaped.
_BYTES_PER_TOLD: Final = 256
_OK: Final = 200
_BAD_REQUEST: Final = 400
# As vLLM refuses more than its `--max-logprobs` (vllm/sampling_params.py, `_validate_logprobs`).
_TOO_MANY: Final = re.compile(rb"prompt logprobs of \d+, which is greater than max allowed: (\d+)")

log = logging.getLogger("loragate.evaluate")


class TurnTaking(Protocol):
    """One at a time over many processes; both methods block. `gateway.store.leases.Leases` is one."""

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Take or prolong the turn; False while another has it."""

    def release(self, name: str, holder: str) -> None:
        """End the turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringBounds:
    """What scoring may take.

    Attributes:
        top: Likeliest tokens told at each position.
        at_once: Requests on one engine; 1 means over all evaluators, more of this one.
        tokens: Longest prompt with reply.
        seconds: For one prefill.
        both_answers: Score both answers of a pair; else one of them, drawn by a coin.
    """

    top: int = TOP
    at_once: int = 1
    tokens: int = 8192
    seconds: float = 60.0
    both_answers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is scored.

    Attributes:
        prompt, reply: Token ids.
        temperature: At which the reply was drawn.
        text: Of the reply; None where it is not all that the ids say.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    temperature: float | None = None
    text: str | None = None


class _Refused(Exception):
    """There is no score; the message says why in a word."""


class _TooMany(_Refused):
    """The engine tells fewer of the likeliest tokens."""

    def __init__(self, allowed: int) -> None:
        super().__init__("max_logprobs")
        self.allowed = allowed


class Scorer:
    """Measures drift on engines.

    Args:
        turns: Between evaluators.
        holder: This evaluator's name.
        bounds: What it may take.
    """

    def __init__(self, turns: TurnTaking, holder: str, bounds: ScoringBounds) -> None:
        self._turns = turns
        self._holder = holder
        self._bounds = bounds
        self._places: dict[str, asyncio.Semaphore] = {}
        self._holding: set[str] = set()
        self._lock = threading.Lock()
        self._most_top: dict[str, int] = {}  # of engines that allow fewer than is wished

    @property
    def both_answers(self) -> bool:
        """Whether both answers of a pair are scored."""
        return self._bounds.both_answers

    async def ids_of(self, engine: Engine, model: str, text: str) -> tuple[int, ...] | NoDrift:
        """Return the ids of a reply's text, without special tokens; `not_round_trip` if they give another text."""
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

    async def ids_of_prompt(self, engine: Engine, asked: dict[str, Any]) -> tuple[int, ...] | NoDrift:
        """Return the ids of what was asked with `/tokenize`, in the words of that endpoint."""
        try:
            return await self._tokenize(engine, asked)
        except _Refused as refused:
            return _no_drift(str(refused))

    async def drift(self, engine: Engine, given: Given, served: str, other: str) -> tuple[Drift | NoDrift, int]:
        """Return how far `other` is from `served`, which drew the reply, and the tokens that finding out has cost."""
        ids = (*given.prompt, *given.reply)
        most = min(self._bounds.tokens, engine.most_tokens - 1 if engine.most_tokens else self._bounds.tokens)
        if not given.reply:
            return _no_drift("no_tokens"), 0
        if len(ids) > most:
            return _no_drift("too_long"), 0
        cost = 0
        try:
            told = []
            async with self._turn(engine):
                for version in (served, other):  # also where they are one: what differs then is the engine's noise
                    cost += len(ids)
                    told.append(await self._score(engine, version, ids))
        except _Refused as refused:
            return _no_drift(str(refused)), cost
        return drift_of(
            ids,
            len(given.prompt),
            told[0],
            told[1],
            top=self._top(engine),
            temperature=given.temperature,
            text=given.text,
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
            told = reply["choices"][0]["prompt_logprobs"]
        except (KeyError, IndexError, TypeError):
            raise _Refused("garbled") from None
        if not isinstance(told, list):
            raise _Refused("no_logprobs")
        return told

    async def _ask_score(self, engine: Engine, version: str, ids: Sequence[int]) -> dict[str, Any]:
        top = self._top(engine)
        body = {"model": version, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
        await engine.idle()
        most_bytes = 1_048_576 + _BYTES_PER_TOLD * (top + 1) * len(ids)
        return await self._ask(engine, "/v1/completions", body, most_bytes)

    async def _tokenize(self, engine: Engine, asked: dict[str, Any]) -> tuple[int, ...]:
        reply = await self._ask(engine, "/tokenize", asked, 1_048_576 + 16 * self._bounds.tokens)
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
    async def _turn(self, engine: Engine) -> AsyncIterator[None]:
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
            await asyncio.sleep(TURN_SECONDS / 3)
            with contextlib.suppress(StoreError, OSError):  # away just now: another try is left
                await asyncio.to_thread(self._prolong, name)

    def _take(self, name: str) -> bool:
        # While the store is away nobody has a turn.
        with self._lock, contextlib.suppress(StoreError, OSError):
            if self._turns.take(name, self._holder, TURN_SECONDS):
                self._holding.add(name)
                return True
        return False

    def _prolong(self, name: str) -> None:
        with self._lock:  # not after it was released: a thread that was begun cannot be called off
            if name in self._holding:
                self._turns.take(name, self._holder, TURN_SECONDS)

    def _release(self, name: str) -> None:
        # Away just now: the turn runs out by itself.
        with self._lock, contextlib.suppress(StoreError, OSError):
            self._holding.discard(name)
            self._turns.release(name, self._holder)


def _no_drift(reason: str) -> NoDrift:
    return NoDrift(reason=reason, version=VERSION)


async def _until(take: Callable[[], bool], seconds: float) -> bool:
    """Try until it succeeds, for so many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await asyncio.to_thread(take):
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
