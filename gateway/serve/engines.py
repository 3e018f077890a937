"""Watches one engine: whether it may be used, which base it serves, and that it holds the adapters that it should.

Three tasks: one asks for its health every second; one keeps its adapters loaded (`adapters/loader.py`), so that an
engine that restarted empty gets them again; one checks, once a probe period, that each adapter still gives the same
answers. Changes are reported by callbacks. Why an engine is not used is logged once, and shown in the status as long as
it lasts.
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

# Seconds between two health checks. Requests that meet a dead engine sooner find out by themselves.
POLL_SECONDS: Final = 1.0
# Failed health checks in a row before an engine counts as down: a busy one may fail one.
MISSES: Final = 2
# How long to wait before an adapter is loaded again through an address behind which several engines were found.
SEVERAL_SECONDS: Final = 30.0


class EngineProblem(NamedTuple):
    """Why an engine is not used."""

    kind: ProblemKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The state of one engine, apart from its adapters.

    `answers` is whether it passes health checks, `base` the base that it then serves, and `problem` why it is not used;
    None if it is used.
    """

    url: str
    answers: bool = False
    base: Base | None = None
    problem: EngineProblem | None = None

    @property
    def is_up(self) -> bool:
        """Whether it may get requests: it answers, and serves the base of this gateway."""
        return self.answers and self.problem is None


class EngineWatch:
    """Watches one engine, and keeps its adapters loaded.

    Args:
        url, host: The engine's address, and the client for its API.
        loader: Keeps its adapters loaded; reset when the engine is lost.
        probe_seconds: How often versions in service are checked; 0 for never.
        judge: Called when the engine's status has changed; the fleet then calls `apply_verdict` on each watch.
        on_change: Called after `judge`.
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
        self._logged: tuple[bool, ProblemKind | None] = (False, None)  # the state that was last logged
        self._faults: dict[str, str] = {}  # step → its last failure, so that each is logged once

    def view(self) -> EngineState:
        """Return the engine's entry for the route table."""
        status = self.status
        return EngineState(
            url=status.url, is_up=status.is_up, versions=self.loader.ready if status.is_up else frozenset()
        )

    @property
    def problem(self) -> EngineProblem | None:
        """Why the engine is not used, or why it gets no adapters although it is up; None if all is well."""
        if self.status.problem is None and self._host.is_several:
            return EngineProblem(ProblemKind.SEVERAL, SEVERAL)
        return self.status.problem

    def describe(self) -> dict[str, Any]:
        """Return the engine's state for `status`: whether it is up, why not, and its base."""
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
        """Return the path or repository that the engine says it loaded its base from; empty until it has answered."""
        return self._host.root

    @property
    def serves_another(self) -> bool:
        """Whether the engine answers but serves another base than this gateway."""
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

    async def on_lost(self) -> None:
        """Mark the engine as down: its process has ended."""
        await self._is_down(EngineProblem(ProblemKind.ENDED, "its process has ended; it is started again"))

    def apply_verdict(self, problem: EngineProblem | None, base: Base | None) -> None:
        """Apply the fleet's verdict on this engine, set the base's name for probes, and log a change.

        Args:
            problem: Why it is not used, given what the other engines serve; None if it is used.
            base: The gateway's base.
        """
        if self.status.answers:
            self.status = replace(self.status, problem=problem)
            self._host.model = base.name if base is not None and problem is None else ""
        now = self.status.is_up, self.status.problem.kind if self.status.problem else None
        before, self._logged = self._logged, now
        if before == now:
            return
        url = self.status.url
        if self.status.is_up:
            log.info("engine %s is up", url)
            return
        self.loader.reset()  # a different or restarted engine may come up in its place
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
                self._log_failure(name, str(error))
                if isinstance(error, NotOneEngine):
                    await asyncio.sleep(SEVERAL_SECONDS)
            except Exception as error:  # an unexpected answer of one engine must not end the watch, nor the gateway
                if self._log_failure(name, repr(error)):
                    log.exception("engine %s answers in a way that is not understood", self.status.url)
            else:
                self._faults.pop(name, None)
            await asyncio.sleep(seconds)

    def _log_failure(self, step: str, reason: str) -> bool:
        """Log why a step failed, unless its last failure was the same; whether it was logged."""
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
            base = known  # only `created` differs: vLLM gives the present time in each answer
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
