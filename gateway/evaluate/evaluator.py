"""One evaluator, assembled from settings: its loop, its heartbeat, and its regular reads of routes and budgets."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.decide.route import Base
from gateway.evaluate.counts import OwnCounts
from gateway.evaluate.engines import EngineBounds, EvaluatorEngines
from gateway.evaluate.evaluate_sample import Context, evaluate
from gateway.evaluate.judges import StoredJudges
from gateway.evaluate.loop import AWAY, Loop
from gateway.evaluate.policies import StoredPolicies
from gateway.evaluate.replay import ReplayBounds
from gateway.evaluate.scorer import Scorer, ScoringBounds
from gateway.evaluate.sources import NodeMemorySource, SampleSource, StoreSource
from gateway.settings import EvaluatorSettings, Settings, secret
from gateway.store.evaluators import Evaluators
from gateway.store.leases import Leases
from gateway.store.pairs import Pairs
from gateway.store.samples import Samples
from gateway.store.sql import open_store

log = logging.getLogger("loragate.evaluate")

# An evaluator that misses three heartbeats in a row is taken to be gone (gateway/store/evaluators.py).
BEAT_SECONDS: Final = 3.0


class Evaluator:
    """One evaluator.

    Args:
        settings: The gateway's settings.
        engine_urls: The engines that it may use.
        node_socket: The control socket of the node that it is a child of; None for a separate evaluator.
        base: The base model that the node serves.
    """

    def __init__(
        self, settings: Settings, engine_urls: Sequence[str], node_socket: Path | None = None, base: Base | None = None
    ) -> None:
        bounds = settings.evaluator
        self.name = secrets.token_hex(8)
        self.counts = OwnCounts(f"{socket.gethostname()}:{os.getpid()}")
        self._bounds = bounds
        self._store = open_store(settings.store or settings.state_folder(), now=time.time)  # noqa: TID251 (composition)
        self._samples = Samples(self._store)
        self._beats = Evaluators(self._store)
        self._policies = StoredPolicies(self._store)
        self._spent: frozenset[str] = frozenset()
        self._is_informed = asyncio.Event()
        self._judges = StoredJudges(
            self._policies,
            Pairs(self._store),
            lambda name: secret(name) if name in bounds.judge_keys else None,
            seconds=bounds.judge_seconds,
            clock=time.monotonic,
            now=time.time,  # noqa: TID251 (composition)
        )
        self._engines = EvaluatorEngines(
            engine_urls,
            _engine_bounds(bounds),
            time.monotonic,
            base=base,
            base_name=settings.engine.served_name,
            access=settings.access,
        )
        sources: list[SampleSource] = [StoreSource(self._samples, self.name, bounds.lease_seconds)]
        self._node_memory = None
        if node_socket is not None:
            self._node_memory = NodeMemorySource(node_socket, self._store, self.name, bounds.lease_seconds)
            sources.append(self._node_memory)
        context = self._context()
        self._loop = Loop(
            tuple(sources),
            lambda sample: evaluate(sample, context),
            self.counts,
            at_once=self._engines.places,
            lease_seconds=bounds.lease_seconds,
            now=time.time,  # noqa: TID251 (composition)
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Evaluate until `stop` is set, then finish the running samples within `drain_seconds`."""
        log.info("evaluator %s works on %s", self.name, self._store.database.label)
        beating = asyncio.ensure_future(self._beat())
        stopped = asyncio.ensure_future(stop.wait())
        beating.add_done_callback(lambda task: None if task.cancelled() else stop.set())  # a bug ends the process
        try:
            # Start only when the routes' policies have been read.
            informed = asyncio.ensure_future(self._is_informed.wait())
            await asyncio.wait([informed, stopped], return_when=asyncio.FIRST_COMPLETED)
            informed.cancel()
            await self._loop.run(stop, self._bounds.drain_seconds)
        finally:
            stopped.cancel()
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            with contextlib.suppress(*AWAY):
                await asyncio.to_thread(self._beats.leave, self.name)
            await self._engines.close()
            await self._judges.close()
            if self._node_memory is not None:
                self._node_memory.close()
            self._store.close()
        if not beating.cancelled():
            beating.result()

    def _context(self) -> Context:
        bounds = self._bounds
        scoring = ScoringBounds(
            top=bounds.top_logprobs,
            at_once=bounds.score_at_once,
            tokens=bounds.score_tokens,
            seconds=bounds.score_seconds,
            both_answers=bounds.score_both_answers,
        )
        return Context(
            engines=self._engines,
            scorer=Scorer(Leases(self._store), self.name, scoring),
            policies=self._policies,
            judges=self._judges,
            spent=lambda alias: alias in self._spent,
            bounds=ReplayBounds(seconds=bounds.replay_seconds, reply_bytes=bounds.reply_bytes),
            give_up_seconds=bounds.give_up_seconds,
            now=time.time,  # noqa: TID251 (composition)
        )

    async def _beat(self) -> None:
        is_away = False
        while True:
            try:
                await asyncio.to_thread(self._look)
                self._is_informed.set()
                is_away = False
            except AWAY as error:
                if not is_away:
                    log.warning("%s; evaluating goes on when it is back", error)
                is_away = True
            await asyncio.sleep(BEAT_SECONDS)

    def _look(self) -> None:
        """Report the counts, and read routes, budgets and judges again; blocks."""
        self._beats.beat(self.name, self.counts.record(self._judges.calibrations()))
        self._policies.refresh()
        budgets = self._policies.hourly_budgets()
        self._spent = frozenset(alias for alias, most in budgets.items() if self._samples.tokens_spent(alias) >= most)
        if self._policies.aliases_with_judge():
            self._judges.learn(len(self._beats.alive()))


def _engine_bounds(bounds: EvaluatorSettings) -> EngineBounds:
    """Return the settings that `EvaluatorEngines` needs, as it does not import the settings of the whole gateway."""
    return EngineBounds(
        requests=bounds.requests_per_engine,
        tokens_per_second=bounds.tokens_per_second,
        kv_cache_share=bounds.kv_cache_share,
        most_running=bounds.most_running,
        priority=bounds.priority,
        idle_wait_seconds=bounds.idle_wait_seconds,
    )
