"""The node's side of feedback: find the request that it is about, then store it.

Workers send callers' feedback to the node. The node asks all of its workers which of them has served the request.
Feedback on a request that none of them remembers is stored without alias and version; every gateway looks at such
feedback regularly and resolves what its own workers remember. The rest expires.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from gateway.mirror.fair_queue import FairQueue
from gateway.mirror.faults import safe_traceback
from gateway.mirror.redactor_process import RedactorRunner
from gateway.mirror.redactors import NotRedacted
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.feedback import OWN_ID, About, Feedback, RequestKey
from gateway.records.routes import MirrorPolicy
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# Feedback is collected for this long, so that workers are asked about many requests at once.
GATHER_SECONDS: Final = 0.2
MAX_AT_ONCE: Final = 500
# Feedback that may wait here, each at most 2.2 kB.
MAX_WAITING: Final = 10_000
# Feedback of one account that may wait here: about two seconds' work, beside that of other accounts.
MAX_WAITING_OF_ONE: Final = 2_000
RETRY_SECONDS: Final = 1.0
# How often other gateways' unresolved feedback is read.
LOOK_SECONDS: Final = 2.0
# How much of it is read at a time.
MAX_UNRESOLVED: Final = 1_000
# Ids that this gateway's workers did not know. They never learn of old requests, so asking again would be useless.
MAX_SOUGHT: Final = 10_000


class FeedbackStore(Protocol):
    """The store of feedback; `gateway.store.feedback.Feedbacks` implements it."""

    def put(self, feedback: Feedback) -> None:
        """Store feedback; it replaces earlier feedback of the same account on the same request."""

    def resolve(self, request_id: str, account: str, about: About, *, comment: str | None = None) -> bool:
        """Set the alias and version that feedback is about; `comment` replaces its comment."""

    def drop(self, request_id: str, account: str) -> None:
        """Delete feedback."""

    def read_unresolved(self, limit: int = 1000, *, newest: bool = False) -> list[Feedback]:
        """Return feedback not yet matched to a request, oldest (or newest) first."""


class FeedbackService:
    """Takes feedback from workers, resolves it and stores it.

    Args:
        store: The store's feedback.
        recall: Asks all workers for the alias and version that served some requests.
        policies: Returns every alias's current mirror policy.
        keep_seconds: How long unresolved feedback is kept.
        clock: Unix seconds.
        retry_seconds: The pause between tries while the store is away.
        redactor: Redacts texts; a new one unless given.
    """

    def __init__(
        self,
        store: FeedbackStore,
        recall: Callable[[Sequence[RequestKey]], Awaitable[dict[RequestKey, About]]],
        policies: Callable[[], dict[str, MirrorPolicy]],
        keep_seconds: float,
        clock: Callable[[], float],
        retry_seconds: float = RETRY_SECONDS,
        redactor: RedactorRunner | None = None,
    ) -> None:
        self._redactor = redactor or RedactorRunner()
        self.counts = MirrorCounts()
        self._store = store
        self._recall = recall
        self._policies = policies
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._waiting = FairQueue(MAX_WAITING, MAX_WAITING_OF_ONE)
        self._has_come = asyncio.Event()
        self._sought: OrderedDict[str, None] = OrderedDict()

    def hear(self, feedback: Feedback) -> None:
        """Take feedback from a worker. Never waits and never raises."""
        if self._waiting.add(feedback):
            self._has_come.set()
        else:
            self.counts.count_feedback("dropped")

    async def run(self) -> None:
        """Store incoming feedback and resolve that of other gateways, until cancelled."""
        await asyncio.gather(self._keep_storing(), self._keep_looking())

    async def _keep_storing(self) -> None:
        while True:
            await self._has_come.wait()
            await asyncio.sleep(GATHER_SECONDS)
            batch = self._waiting.take(MAX_AT_ONCE)
            if not self._waiting:
                self._has_come.clear()
            try:
                await self._attach(batch)
            except StoreError as error:
                log.warning("feedback waits: %s", error)
                self._waiting.give_back(batch)  # some may be stored already; storing twice is harmless
                self._has_come.set()
                await asyncio.sleep(self._retry_seconds)
            except Exception as error:  # noqa: BLE001 (a bug here must end nothing else; its text may quote callers)
                for _ in batch:
                    self.counts.count_feedback("dropped")
                log.error("feedback could not be stored; this is a bug: %s", safe_traceback(error))

    async def _attach(self, batch: list[Feedback]) -> None:
        about = await self._recall([each.request_key for each in batch])
        policies, owned = self._policies(), _exclusive_ids(about)
        to_store = [
            msgspec.structs.replace(feedback, about=about.get(feedback.request_key))
            for feedback in batch
            if feedback.request_key in about or feedback.request_id not in owned
        ]
        await asyncio.to_thread(self._put, to_store, policies)
        for feedback in to_store:
            self.counts.count_feedback("unknown_request" if feedback.about is None else "attached")
            if feedback.about is None:
                self._seek(feedback)
        for _ in range(len(batch) - len(to_store)):
            self.counts.count_feedback("not_yours")

    def _put(self, batch: Sequence[Feedback], policies: dict[str, MirrorPolicy]) -> None:
        """Redact and store; runs in a thread, because redactors may be slow."""
        for feedback in batch:
            comment = self._comment(feedback, feedback.about, policies)
            label = self._redact(feedback.label, _policies_for(feedback.about, policies))
            self._store.put(msgspec.structs.replace(feedback, comment=comment, label=label))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except StoreError:
                continue  # the store's watch logs that it is away
            except Exception as error:  # noqa: BLE001 (a bug here must end nothing else; its text may quote callers)
                log.error("feedback of other gateways could not be looked at; this is a bug: %s", safe_traceback(error))

    async def _look(self) -> None:
        """Resolve other gateways' feedback that this gateway's workers remember, and delete what is too old."""
        found = await asyncio.to_thread(self._store.read_unresolved, MAX_UNRESOLVED)
        too_old = self._clock() - self._keep_seconds
        for feedback in found:
            if feedback.at < too_old:
                await asyncio.to_thread(self._store.drop, feedback.request_id, feedback.account)
        if len(found) >= MAX_UNRESOLVED:  # a backlog that nobody can resolve must not hide the newest feedback
            found = await asyncio.to_thread(self._store.read_unresolved, MAX_UNRESOLVED, newest=True)
        new = [feedback for feedback in found if feedback.at >= too_old and feedback.id not in self._sought]
        if not new:
            return
        about = await self._recall([each.request_key for each in new])
        policies, owned = self._policies(), _exclusive_ids(about)
        for feedback in new:
            self._seek(feedback)
            feedback_about = about.get(feedback.request_key)
            if feedback_about is None:
                if feedback.request_id in owned:
                    await asyncio.to_thread(self._store.drop, feedback.request_id, feedback.account)
                    self.counts.count_feedback("not_yours")
                continue
            comment = await asyncio.to_thread(self._comment, feedback, feedback_about, policies)
            await asyncio.to_thread(
                self._store.resolve, feedback.request_id, feedback.account, feedback_about, comment=comment
            )
            self.counts.count_feedback("attached")

    def _seek(self, feedback: Feedback) -> None:
        self._sought[feedback.id] = None
        if len(self._sought) > MAX_SOUGHT:
            self._sought.popitem(last=False)

    def _comment(self, feedback: Feedback, about: About | None, policies: dict[str, MirrorPolicy]) -> str:
        """Return the part of a comment that may be stored: all of it if the alias's policy allows texts, else nothing.

        While the alias is unknown, the policies of all aliases must allow it.
        """
        if not feedback.comment:
            return ""
        bound = _policies_for(about, policies)
        if any(policy.capture != "full" for policy in bound):
            return ""
        return self._redact(feedback.comment, bound)

    def _redact(self, text: str, bound: Sequence[MirrorPolicy]) -> str:
        """Return a redacted text; empty if it cannot be redacted."""
        try:
            return self._redactor.text(text, tuple(dict.fromkeys(name for policy in bound for name in policy.redact)))
        except NotRedacted:
            return ""


def _policies_for(about: About | None, policies: dict[str, MirrorPolicy]) -> list[MirrorPolicy]:
    """Return the policies that apply to feedback: that of its alias, or all of them while the alias is unknown."""
    if about is None:
        return list(policies.values())
    return [policies[about.alias]] if about.alias in policies else []


def _exclusive_ids(about: Mapping[RequestKey, About]) -> set[str]:
    """Return the ids that belong to one account alone, so that feedback of another account on them is never attached.

    These are the ids that the gateway has made. An id that a client chose may be in use by another account as well, at
    this gateway or at another one.
    """
    return {request_id for request_id, _ in about if request_id.startswith(OWN_ID)}
