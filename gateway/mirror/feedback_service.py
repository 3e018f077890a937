"""The node's side of feedback: find out what it is about, then store it.

A worker hands on what callers say; which worker has served the request is asked of all of them.
What none of this gateway's workers remembers is stored without what it is about: other gateways
look at those, and each resolves what its own workers remember. What nobody knows expires.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from gateway.mirror.fair_queue import FairQueue
from gateway.mirror.faults import told
from gateway.mirror.redactor_process import Redacting
from gateway.mirror.redactors import NotRedacted
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.feedback import OWN_ID, About, Feedback, Named
from gateway.records.routes import MirrorPolicy
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# Feedback is gathered for so long, so that workers are asked for many at once.
GATHER_SECONDS: Final = 0.2
MAX_AT_ONCE: Final = 500
# What may wait here; a word is 2.2 kB at most.
MAX_WAITING: Final = 10_000
# Of one account: what it says is worked off in two seconds, beside what the others say.
MAX_WAITING_OF_ONE: Final = 2_000
RETRY_SECONDS: Final = 1.0
# Other gateways' unresolved feedback is looked at so often.
LOOK_SECONDS: Final = 2.0
# Of those so many at a time.
MAX_UNRESOLVED: Final = 1_000
# Ids that were looked for here and are not known; the ring never learns old ones.
MAX_SOUGHT: Final = 10_000


class FeedbackStore(Protocol):
    """Where feedback is stored: `gateway.store.feedback.Feedbacks`."""

    def put(self, given: Feedback) -> None:
        """Store it, in the place of what the same account said of the same request before."""

    def resolve(self, request_id: str, account: str, about: About, *, comment: str | None = None) -> bool:
        """Note what it is about; `comment` takes the place of its comment."""

    def drop(self, request_id: str, account: str) -> None:
        """Delete it."""

    def unresolved(self, limit: int = 1000, *, newest: bool = False) -> list[Feedback]:
        """Return the oldest of those of which it is not known what they are about; or the newest."""


class FeedbackService:
    """Takes feedback over from workers.

    Args:
        box: The store's feedback.
        recall: Asks all workers what served some requests.
        policies: Returns every alias's mirror policy as it is now.
        keep_seconds: How long feedback is kept of which it is not known what it is about.
        clock: Unix seconds.
        retry_seconds: How soon the store is tried again while it is away.
        redacting: Who redacts; one of its own unless given.
    """

    def __init__(
        self,
        box: FeedbackStore,
        recall: Callable[[Sequence[Named]], Awaitable[dict[Named, About]]],
        policies: Callable[[], dict[str, MirrorPolicy]],
        keep_seconds: float,
        clock: Callable[[], float],
        retry_seconds: float = RETRY_SECONDS,
        redacting: Redacting | None = None,
    ) -> None:
        self._redacting = redacting or Redacting()
        self.counts = MirrorCounts()
        self._box = box
        self._recall = recall
        self._policies = policies
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._waiting = FairQueue(MAX_WAITING, MAX_WAITING_OF_ONE)
        self._has_come = asyncio.Event()
        self._sought: OrderedDict[str, None] = OrderedDict()

    def hear(self, feedback: Feedback) -> None:
        """Take feedback over; never waits, never raises."""
        if self._waiting.add(feedback):
            self._has_come.set()
        else:
            self.counts.count_feedback("dropped")

    async def run(self) -> None:
        """Store what comes and resolve what other gateways could not, until cancelled."""
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
                self._waiting.give_back(batch)  # to put one twice is harmless
                self._has_come.set()
                await asyncio.sleep(self._retry_seconds)
            except Exception as error:  # noqa: BLE001 (the fence: told without its text)
                for _ in batch:
                    self.counts.count_feedback("dropped")
                log.error("feedback could not be stored; this is a bug: %s", told(error))

    async def _attach(self, batch: list[Feedback]) -> None:
        about = await self._recall([each.named for each in batch])
        policies, owned = self._policies(), _owned(about)
        to_store = [
            msgspec.structs.replace(given, about=about.get(given.named))
            for given in batch
            if given.named in about or given.request_id not in owned
        ]
        await asyncio.to_thread(self._put, to_store, policies)
        for given in to_store:
            self.counts.count_feedback("unknown_request" if given.about is None else "attached")
            if given.about is None:
                self._seek(given)
        for _ in range(len(batch) - len(to_store)):
            self.counts.count_feedback("not_yours")

    def _put(self, batch: Sequence[Feedback], policies: dict[str, MirrorPolicy]) -> None:
        """Redact and store; in a thread, as a redactor may take its time."""
        for given in batch:
            comment = self._comment(given, given.about, policies)
            label = self._redacted(given.label, _bound(given.about, policies))
            self._box.put(msgspec.structs.replace(given, comment=comment, label=label))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except StoreError:
                continue  # told by the store's own watch
            except Exception as error:  # noqa: BLE001 (the fence: told without its text)
                log.error("feedback of other gateways could not be looked at; this is a bug: %s", told(error))

    async def _look(self) -> None:
        """Resolve what this gateway's workers remember of other gateways' feedback, and drop what is too old."""
        found = await asyncio.to_thread(self._box.unresolved, MAX_UNRESOLVED)
        too_old = self._clock() - self._keep_seconds
        for given in found:
            if given.at < too_old:
                await asyncio.to_thread(self._box.drop, given.request_id, given.account)
        if len(found) >= MAX_UNRESOLVED:  # what nobody knows must not hide what has just come
            found = await asyncio.to_thread(self._box.unresolved, MAX_UNRESOLVED, newest=True)
        new = [given for given in found if given.at >= too_old and given.id not in self._sought]
        if not new:
            return
        about = await self._recall([each.named for each in new])
        policies, owned = self._policies(), _owned(about)
        for given in new:
            self._seek(given)
            known = about.get(given.named)
            if known is None:
                if given.request_id in owned:
                    await asyncio.to_thread(self._box.drop, given.request_id, given.account)
                    self.counts.count_feedback("not_yours")
                continue
            comment = await asyncio.to_thread(self._comment, given, known, policies)
            await asyncio.to_thread(self._box.resolve, given.request_id, given.account, known, comment=comment)
            self.counts.count_feedback("attached")

    def _seek(self, given: Feedback) -> None:
        self._sought[given.id] = None
        if len(self._sought) > MAX_SOUGHT:
            self._sought.popitem(last=False)

    def _comment(self, given: Feedback, about: About | None, policies: dict[str, MirrorPolicy]) -> str:
        """Return what may be kept of a comment: all where the alias's words may be kept, else nothing.

        As long as it is not known which alias it is about, what holds for each of them holds.
        """
        if not given.comment:
            return ""
        bound = _bound(about, policies)
        if any(policy.capture != "full" for policy in bound):
            return ""
        return self._redacted(given.comment, bound)

    def _redacted(self, text: str, bound: Sequence[MirrorPolicy]) -> str:
        """Return what may be kept of a text; nothing where that cannot be told."""
        try:
            return self._redacting.text(text, tuple(dict.fromkeys(name for policy in bound for name in policy.redact)))
        except NotRedacted:
            return ""


def _bound(about: About | None, policies: dict[str, MirrorPolicy]) -> list[MirrorPolicy]:
    """Return the policies that hold for what feedback is about; each of them as long as that is not known."""
    if about is None:
        return list(policies.values())
    return [policies[about.alias]] if about.alias in policies else []


def _owned(about: Mapping[Named, About]) -> set[str]:
    """Return the ids that one account alone can have: what another says of them will never be attached.

    They are those that the gateway has made. A client's own id may be that of another account as well, at this gateway
    or at another one.
    """
    return {request_id for request_id, _ in about if request_id.startswith(OWN_ID)}
