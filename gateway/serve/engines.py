"""One engine, watched: whether it may be used, which base it serves, and that it holds what it should.

One task asks for its health every second; one keeps its adapters in order (`adapters/loader.py`),
so an engine that restarted empty has them again without anybody's word; one checks, once a probe
period, that each is still what it was. Whoever needs to know is told of every change, and why an engine is
not used is always said: once in the log, and in the status for as long as it holds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from adapters.loader import Loader
from adapters.ports import HostUnavailable, NotOneEngine
from gateway.decide.route import Base, EngineState
from gateway.serve.adapter_host import SEVERAL, EngineDown, ProblemKind, VllmHost

log = logging.getLogger("loragate.engines")

# Seconds between two questions; a request that meets a dead engine sooner learns it by itself.
POLL_SECONDS: Final = 1.0
# Unanswered questions in a row before an engine counts as down: a busy one may miss one.
MISSES: Final = 2
# An address that was found to be several engines is tried with an adapter again after so long.
SEVERAL_SECONDS: Final = 30.0


class EngineProblem(NamedTuple):
    """Why an engine is not used."""

    kind: ProblemKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What is known of one engine, apart from its adapters.

    `answers` tells whether it can be asked, `base` what it serves then; `problem` why it is not used, if it is not.
    """

    url: str
    answers: bool = False
    base: Base | None = None
    problem: EngineProblem | None = None

    @property
    def is_up(self) -> bool:
        """Whether it may be sent requests: it answers, and serves the base of this gateway."""
        return self.answers and self.problem is None


class EngineWatch:
    """One engine, watched and kept stocked.

    Args:
        url, host: Where it is, and how it is asked.
        loader: Keeps its adapters; reset when the engine is lost.
        probe_seconds: How often versions in service are checked; 0 for never.
        judge: Called when what it says of itself has changed; tells it what becomes of it, by `judged`.
        on_change: Called after that.
    """

    def __init__(
        self,
        url: str,
        host: VllmHost,
        loader: Loader,
        probe_seconds: float,
        *,
        judge: Callable[[], None],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self.status = EngineStatus(url=url)
        self.has_been_asked = False
        self.loader = loader
        self._host = host
        self._probe_seconds = probe_seconds
        self._judge = judge
        self._on_change = on_change
        self._misses = 0
        self._told: tuple[bool, ProblemKind | None] = (False, None)  # what the log last said
        self._faults: dict[str, str] = {}  # what steps last failed of, for the log to say it once

    def view(self) -> EngineState:
        """Return what workers need to know."""
        status = self.status
        return EngineState(
            url=status.url, is_up=status.is_up, versions=self.loader.ready if status.is_up else frozenset()
        )

    @property
    def problem(self) -> EngineProblem | None:
        """Why it is not used; or, though it is up, why it gets no adapters."""
        if self.status.problem is None and self._host.is_several:
            return EngineProblem(ProblemKind.SEVERAL, SEVERAL)
        return self.status.problem

    def told(self) -> dict[str, Any]:
        """Return whether it is used, why it is not, and what it says of its base, for people."""
        status = self.status
        base = status.base
        return {
            "up": status.is_up,
            "problem": self.problem.kind.value if self.problem else None,
            "reason": self.problem.reason if self.problem else None,
            "names": list(base.names) if base else [],
            "max_model_len": base.max_model_len if base else None,
        }

    def root(self) -> str:
        """Return the path or name that the engine loaded its base from; empty until it has told."""
        return self._host.root

    @property
    def serves_another(self) -> bool:
        """Whether it answers, and serves another base than this gateway."""
        problem = self.status.problem
        return problem is not None and problem.kind is ProblemKind.OTHER_BASE

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._every(POLL_SECONDS, self._poll))
                tasks.create_task(self._every(POLL_SECONDS, self._tend))
                if self._probe_seconds:
                    tasks.create_task(self._every(self._probe_seconds, self._inspect))
        finally:
            self._host.close()

    async def lost(self) -> None:
        """The engine is known to be gone."""
        await self._is_down(EngineProblem(ProblemKind.ENDED, "its process has ended; it is started again"))

    def judged(self, problem: EngineProblem | None, base: Base | None) -> None:
        """Take note of what the fleet makes of it, beside the others, and of the name by which its base is probed."""
        if self.status.answers:
            self.status = replace(self.status, problem=problem)
            self._host.model = base.name if base is not None and problem is None else ""
        now = self.status.is_up, self.status.problem.kind if self.status.problem else None
        before, self._told = self._told, now
        if before == now:
            return
        url = self.status.url
        if self.status.is_up:
            log.info("engine %s is up", url)
            return
        self.loader.reset()  # another engine may come back in its place
        if self.status.problem is not None and self.status.problem.kind is not ProblemKind.UNDECIDED:
            how = "is not used" if self.status.answers else "is down"
            level = logging.WARNING if before[0] or self.status.answers else logging.INFO
            log.log(level, "engine %s %s: %s", url, how, self.status.problem.reason)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        name = step.__name__
        while True:
            try:
                await step()
            except HostUnavailable as error:
                self._failed(name, str(error))
                if isinstance(error, NotOneEngine):
                    await asyncio.sleep(SEVERAL_SECONDS)
            except Exception as error:  # one engine's odd answer must not end the watch, nor the gateway
                if self._failed(name, repr(error)):
                    log.exception("engine %s answers in a way that is not understood", self.status.url)
            else:
                self._faults.pop(name, None)
            await asyncio.sleep(seconds)

    def _failed(self, step: str, reason: str) -> bool:
        """Say why a step failed, once while it goes on failing so; whether that was said now."""
        if self._faults.get(step) == reason:
            return False
        self._faults[step] = reason
        log.info("engine %s: %s", self.status.url, reason)
        return True

    async def _poll(self) -> None:
        try:
            await self._host.check_health()
            base = await self._host.base()
        except EngineDown as error:
            self.has_been_asked = True
            self._misses += 1
            if self._misses >= MISSES or not self.status.answers:
                await self._is_down(EngineProblem(error.kind, str(error)))
            return
        self.has_been_asked = True
        self._misses = 0
        known = self.status.base
        if known is not None and base == replace(known, created=base.created):
            base = known  # vLLM tells the present time as the model's age in each answer
        status = replace(self.status, answers=True, base=base)
        if not self.status.answers:
            status = replace(status, problem=None)
        await self._become(status)

    async def _tend(self) -> None:
        if self.status.is_up:
            await self.loader.tend()

    async def _inspect(self) -> None:
        if self.status.is_up:
            await self.loader.inspect()

    async def _is_down(self, problem: EngineProblem) -> None:
        await self._become(replace(self.status, answers=False, problem=problem))

    async def _become(self, status: EngineStatus) -> None:
        if status == self.status:
            return
        self.status = status
        self._judge()
        await self._on_change()
