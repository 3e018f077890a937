"""Where samples come from: the store, or the node's memory for samples whose texts may not be stored.

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

MEMORY_QUEUE_PATH: Final = "/admin/v1/shadow/straight"
_ASK_SECONDS: Final = 5.0


class SampleSource(Protocol):
    """A source of samples for one evaluator."""

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        """Claim the oldest samples that are not claimed, at most `most`, of no alias in `skipping`."""

    def extend(self, ids: Collection[str]) -> set[str]:
        """Renew the leases of samples; returns the ids whose claims still hold."""

    def finish(self, scored_pair: ScoredPair, tokens: int) -> bool:
        """Store a sample's pair and finish the sample; False if its claim was lost."""

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        """Give a sample back, for a later try or for good; False if its claim was lost."""


class StoreSource:
    """Samples in the store, which all evaluators share.

    Args:
        samples: The store's samples.
        holder: This evaluator's name.
        lease_seconds: How long a claim lasts.
    """

    def __init__(self, samples: Samples, holder: str, lease_seconds: float) -> None:
        self._samples = samples
        self._holder = holder
        self._lease = lease_seconds

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        return [claimed.sample for claimed in self._samples.claim(self._holder, most, self._lease, skipping=skipping)]

    def extend(self, ids: Collection[str]) -> set[str]:
        return self._samples.extend(self._holder, ids, self._lease)

    def finish(self, scored_pair: ScoredPair, tokens: int) -> bool:
        """Store the pair and finish the sample in one transaction."""
        return self._samples.finish(self._holder, scored_pair, tokens)

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        return self._samples.give_up(
            self._holder, sample.id, reason, again_after_seconds=again_after_seconds, tokens=tokens
        )


class NodeMemorySource:
    """Samples in the node's memory, over its control socket. Only their numbers reach the store, never their texts.

    The pair is stored before the sample is finished. If the evaluator dies in between, the sample is evaluated again,
    and its pair is still stored only once.

    Args:
        socket: The control socket in the node's state folder.
        store: For pairs and the tokens that they cost.
        holder: This evaluator's name.
        lease_seconds: How long a claim lasts.
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
        self._client.close()

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        found = self._ask({"do": "claim", "most": most, "seconds": self._lease, "skipping": list(skipping)})
        return msgspec.msgpack.decode(found, type=list[Sample])

    def extend(self, ids: Collection[str]) -> set[str]:
        found = self._ask({"do": "extend", "ids": list(ids), "seconds": self._lease})
        return msgspec.msgpack.decode(found, type=set[str])

    def finish(self, scored_pair: ScoredPair, tokens: int) -> bool:
        """Store the pair, which holds only numbers, and let the node forget the sample."""
        is_new = self._pairs.add(scored_pair)
        if is_new:
            self._spend(scored_pair.alias, tokens)
        self._ask({"do": "finish", "ids": [scored_pair.sample]})
        return is_new

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        """Give the sample back for a later try, or let the node forget it."""
        del reason  # the evaluator counts it; nothing about these samples is stored
        self._spend(sample.alias, tokens)
        found = self._ask({"do": "give_up", "ids": [sample.id], "seconds": again_after_seconds})
        return bool(msgspec.msgpack.decode(found, type=set[str]))

    def _spend(self, alias: str, tokens: int) -> None:
        if tokens:
            spending.note(self._store, alias, self._holder, tokens)

    def _ask(self, request: Mapping[str, Any]) -> bytes:
        body = msgspec.msgpack.encode({**request, "holder": self._holder})
        try:
            reply = self._client.post(MEMORY_QUEUE_PATH, content=body, headers={"content-type": "application/msgpack"})
            reply.raise_for_status()
        except httpx.HTTPError as error:
            raise ConnectionError(f"the node does not answer ({type(error).__name__})") from None
        return reply.content
