"""Where samples come from: the store, or a node's memory for those whose words may not be stored.

All methods block, and may raise StoreError or OSError; the loop calls them in threads.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import msgspec

from evaluators.observation import ScoredPair
from gateway.records.sample import Sample
from gateway.store import spending
from gateway.store.pairs import Pairs
from gateway.store.samples import Samples
from gateway.store.sql import Store

STRAIGHT_PATH: Final = "/admin/v1/shadow/straight"
_ASK_SECONDS: Final = 5.0


class SampleSource(Protocol):
    """Samples of one kind, as one evaluator gets them."""

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        """Take the oldest that nobody holds, none of the aliases in `skipping`."""

    def extend(self, ids: Collection[str]) -> set[str]:
        """Hold claims for another lease; returns those that are still ours."""

    def finish(self, judged: ScoredPair, tokens: int) -> bool:
        """Store what came of one; False where the claim was lost."""

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        """Give one back; False where the claim was lost."""


class StoreSource:
    """Samples in the store, for all evaluators.

    Args:
        samples: Where they are.
        holder: Who claims them.
        lease_seconds: For how long at a time.
    """

    def __init__(self, samples: Samples, holder: str, lease_seconds: float) -> None:
        self._samples = samples
        self._holder = holder
        self._lease = lease_seconds

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        """Take the oldest that nobody holds, none of the aliases in `skipping`."""
        return [claimed.sample for claimed in self._samples.claim(self._holder, most, self._lease, skipping=skipping)]

    def extend(self, ids: Collection[str]) -> set[str]:
        """Hold claims for another lease; returns those that are still ours."""
        return self._samples.extend(self._holder, ids, self._lease)

    def finish(self, judged: ScoredPair, tokens: int) -> bool:
        """Store what came of one, and take it off the queue, at once."""
        return self._samples.finish(self._holder, judged, tokens)

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        """Give one back."""
        return self._samples.give_up(
            self._holder, sample.id, reason, again_after_seconds=again_after_seconds, tokens=tokens
        )


class StraightSource:
    """Samples in a node's memory, over its control socket; only numbers of theirs reach the store.

    A pair is stored before its sample is forgotten: who dies between leaves one that is judged again, and
    stored once.

    Args:
        socket: The control socket in the node's state folder.
        store: For pairs and what they have cost.
        holder: Who claims them.
        lease_seconds: For how long at a time.
    """

    def __init__(self, socket: Path, store: Store, holder: str, lease_seconds: float) -> None:
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket), verify=False),
            base_url="http://control",
            timeout=_ASK_SECONDS,
        )
        self._store = store
        self._pairs = Pairs(store)
        self._holder = holder
        self._lease = lease_seconds

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        """Take the oldest that nobody holds, none of the aliases in `skipping`."""
        found = self._ask({"do": "claim", "most": most, "seconds": self._lease, "skipping": list(skipping)})
        return msgspec.msgpack.decode(found, type=list[Sample])

    def extend(self, ids: Collection[str]) -> set[str]:
        """Hold claims for another lease; returns those that are still ours."""
        found = self._ask({"do": "extend", "ids": list(ids), "seconds": self._lease})
        return msgspec.msgpack.decode(found, type=set[str])

    def finish(self, judged: ScoredPair, tokens: int) -> bool:
        """Store the numbers of one, and have it forgotten."""
        is_new = self._pairs.add(judged)
        if is_new:
            self._spend(judged.alias, tokens)
        self._ask({"do": "finish", "ids": [judged.sample]})
        return is_new

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        """Give one back, or have it forgotten."""
        del reason  # counted by the evaluator; nothing of these samples is kept
        self._spend(sample.alias, tokens)
        found = self._ask({"do": "give_up", "ids": [sample.id], "seconds": again_after_seconds})
        return bool(msgspec.msgpack.decode(found, type=set[str]))

    def _spend(self, alias: str, tokens: int) -> None:
        if tokens:
            spending.note(self._store, alias, self._holder, tokens)

    def _ask(self, asked: Mapping[str, Any]) -> bytes:
        body = msgspec.msgpack.encode({**asked, "holder": self._holder})
        try:
            reply = self._client.post(STRAIGHT_PATH, content=body, headers={"content-type": "application/msgpack"})
            reply.raise_for_status()
        except httpx.HTTPError as error:
            raise ConnectionError(f"the node does not answer ({type(error).__name__})") from None
        return reply.content
