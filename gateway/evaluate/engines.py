"""An evaluator's view of the engines: which versions they have, how busy they are, which fields they accept."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import msgspec

from evaluators.normalize.reading import MAX_COUNTED
from gateway.decide.route import Base
from gateway.decide.table_base import difference, settle_base
from gateway.engine_address import OPEN, Access
from gateway.evaluate.calls import CallFailed, ServerConnection, ServerReply
from gateway.evaluate.idle import IdleMoments
from gateway.evaluate.load import Load, TokenBucket, read_load
from gateway.serve.model_list import read_models

# An engine's models and metrics, a few kilobytes each, are read at most this often.
LOOK_SECONDS: Final = 1.0
_ASK_BYTES: Final = 4 * 1024 * 1024
_OK: Final = 200
_REFUSED: Final = (400, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBounds:
    """How much one evaluator may ask of one engine.

    Attributes:
        requests: Shadow requests at a time.
        tokens_per_second: Tokens that they may cost in the long run; None for no bound.
        kv_cache_share: The engine gets no shadow requests while a larger share of its KV cache is in use.
        most_running: The engine gets none while it runs more requests than this, the evaluator's own aside; None for no
            bound.
        priority: The priority of shadow requests in the engine's queue; lower values go first.
        look_seconds: The bound on each request for the engine's models or load.
        idle_wait_seconds: The longest wait for a moment in which the engine runs no other requests.
    """

    requests: int = 2
    tokens_per_second: float | None = None
    kv_cache_share: float = 0.9
    most_running: int | None = None
    priority: int = 1_000_000
    look_seconds: float = 5.0
    idle_wait_seconds: float = 2.0


class Engine:
    """One engine, as this evaluator knows it.

    Args:
        url: `http://host:port`, or `unix:///path`.
        bounds: How much may be asked of it.
        clock: Monotonic seconds.
        access: Its API key and certificates.
    """

    def __init__(self, url: str, bounds: EngineBounds, clock: Callable[[], float], access: Access = OPEN) -> None:
        self.url = url
        self.models: frozenset[str] = frozenset()
        self.base = ""
        self.reported_base: Base | None = None  # the base model that it lists
        self.most_tokens: int | None = None  # longest prompt with reply (`max_model_len`), as it reports
        self.running = 0
        self._bounds = bounds
        self._clock = clock
        self._server = ServerConnection(
            url, {"authorization": f"Bearer {access.key}"} if access.key else None, access.ca
        )
        self._room = asyncio.Semaphore(bounds.requests)
        self._bucket = TokenBucket(bounds.tokens_per_second)
        self._load = Load()
        self._asking = 0  # our running requests that generate tokens: an engine's own count has only such ones
        self._idle = IdleMoments(self._others, bounds.idle_wait_seconds, clock)
        self._is_up = False
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        self._refused: set[tuple[str, str]] = set()  # (path, field) that the engine does not accept

    async def close(self) -> None:
        await self._server.close()

    @property
    def has_been_asked(self) -> bool:
        """Whether `look` has been completed once."""
        return self._looked is not None

    @property
    def is_up(self) -> bool:
        return self._is_up

    @property
    def is_down(self) -> bool:
        return self._looked is not None and not self._is_up

    async def look(self) -> None:
        """Read the engine's models and load, unless that was done less than `LOOK_SECONDS` ago."""
        async with self._looking:
            if self._looked is not None and self._clock() - self._looked < LOOK_SECONDS:
                return
            ours = self._asking
            try:
                listed, load = await asyncio.gather(self._get("/v1/models"), self._get("/metrics"))
                self._read_models(listed.body)
                found = read_load(load.body.decode(errors="replace")) if load.status == _OK else Load()
                self._load = replace(found, running=found.running - ours)
                self._is_up = listed.status == _OK
            except (CallFailed, ValueError, TypeError, KeyError, AttributeError):  # it is away, or lists no models
                self._is_up = False
            self._looked = self._clock()

    def reason_to_wait(self) -> str:
        """Return why the engine should get no shadow requests now; empty if it may get some."""
        if not self._is_up:
            return "engine_down"
        if not self._bucket.has_some(self._clock()):
            return "engine_tokens"
        return self._load.reason_to_wait(self._bounds.kv_cache_share, self._bounds.most_running)

    @contextlib.asynccontextmanager
    async def place(self) -> Any:
        """Hold one of the engine's places for shadow requests."""
        async with self._room:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1

    async def idle(self) -> None:
        """Wait, for a bounded time, until the engine runs no other requests."""
        await self._idle.wait()

    async def ask(
        self, path: str, body: dict[str, Any], *, seconds: float, most_bytes: int, keeps_part: bool = False
    ) -> ServerReply:
        """Send a POST at low priority and return the reply. Optional fields that the engine refused before are left
        out.

        Raises:
            CallFailed: There is no reply within the bounds.
        """
        fields = {**body, "priority": self._bounds.priority}
        accepted_fields = {name: value for name, value in fields.items() if (path, name) not in self._refused}
        while True:
            generates = path in _GENERATING
            self._asking += generates
            try:
                reply = await self._server.call(
                    path,
                    msgspec.json.encode(accepted_fields),
                    seconds=seconds,
                    most_bytes=most_bytes,
                    keeps_part=keeps_part,
                )
            finally:
                self._asking -= generates
            blamed = [name for name in _OPTIONAL if name in accepted_fields and _is_blamed(reply, name)]
            if not blamed:
                if reply.status not in _REFUSED:
                    # Only now are these fields known to be the cause: a refusal may also just quote the request.
                    self._refused |= {
                        (path, name) for name in _OPTIONAL if name in fields and name not in accepted_fields
                    }
                return reply
            accepted_fields = {name: value for name, value in accepted_fields.items() if name not in blamed}

    def spend(self, tokens: int) -> None:
        """Charge the tokens of a request to the engine's budget."""
        self._bucket.spend(tokens, self._clock())

    async def _others(self) -> int | None:
        try:
            reply = await self._get("/load")  # only counts with --enable-server-load-tracking; without it always 0
            load = msgspec.json.decode(reply.body, type=_ServerLoad) if reply.status == _OK else None
        except (CallFailed, ValueError, RecursionError):
            return None
        return None if load is None else load.server_load - self._asking

    async def _get(self, path: str) -> ServerReply:
        return await self._server.call(path, seconds=self._bounds.look_seconds, most_bytes=_ASK_BYTES)

    def _read_models(self, body: bytes) -> None:
        listed = read_models(body)
        own = listed.base
        self.models = listed.adapters | frozenset(own.names if own is not None else ())
        self.reported_base = own
        if own is not None:
            self.base, self.most_tokens = own.name, own.max_model_len


class _ServerLoad(msgspec.Struct):
    server_load: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTED)]


_GENERATING: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
# Fields that we add and that do not change the answer. Engines other than vLLM, or old ones, may refuse them.
_OPTIONAL: Final = ("priority", "return_token_ids")


def _is_blamed(reply: ServerReply, field: str) -> bool:
    return reply.status in _REFUSED and field.encode() in reply.body.lower()


class EvaluatorEngines:
    """All engines that one evaluator may use.

    Args:
        urls: The engines' addresses.
        bounds: How much may be asked of each.
        clock: Monotonic seconds.
        base: The base model that the gateway served when this evaluator started, if known; engines with another base
            are not used.
        base_name: The operator's name for the base model, if there is one.
        access: Returns the API key and certificates for an engine's URL.
    """

    def __init__(
        self,
        urls: Sequence[str],
        bounds: EngineBounds,
        clock: Callable[[], float],
        *,
        base: Base | None = None,
        base_name: str | None = None,
        access: Callable[[str], Access] = lambda _: OPEN,
    ) -> None:
        self._engines = tuple(Engine(url, bounds, clock, access(url)) for url in urls)
        self._looks: dict[Engine, asyncio.Task[None]] = {}  # running looks at engines that are down
        self.places = bounds.requests * len(self._engines)
        self._base = base
        self._base_name = base_name

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines)

    async def close(self) -> None:
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(*self._looks.values(), return_exceptions=True)
        for engine in self._engines:
            await engine.close()

    async def find(self, *versions: str) -> tuple[Engine | None, str]:
        """Return the least busy engine that has all versions and may be asked now, or None and the reason.

        The reason is `no_engine` where no engine that is up has them; otherwise it is the first such engine's reason to
        wait.
        """
        # Engines that are down are looked at in the background: they may hang, and must not hold up the others.
        down = [engine for engine in self._engines if engine.is_down]
        for engine in down:
            if engine not in self._looks or self._looks[engine].done():
                self._looks[engine] = asyncio.ensure_future(engine.look())
        await asyncio.gather(*(engine.look() for engine in self._engines if engine not in down))
        having = [engine for engine in self._of_the_base() if engine.models.issuperset(versions)]
        free = [engine for engine in having if not engine.reason_to_wait()]
        if free:
            return min(free, key=lambda engine: engine.running), ""
        return None, having[0].reason_to_wait() if having else "no_engine"

    def _of_the_base(self) -> list[Engine]:
        """Return the engines that serve the gateway's base model, by the rule that the gateway itself uses."""
        reported = [engine.reported_base if engine.is_up else None for engine in self._engines]
        all_asked = all(engine.has_been_asked for engine in self._engines)
        self._base = base = settle_base(self._base, self._base_name, reported, all_asked=all_asked)
        if base is None:
            return []
        name_only = self._base_name is not None
        return [
            engine
            for engine, own in zip(self._engines, reported, strict=True)
            if own is None or not difference(base, own, name_only=name_only)
        ]
