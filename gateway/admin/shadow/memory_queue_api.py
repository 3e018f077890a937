"""Give samples whose words may not be stored to the evaluator on this machine, over the unix socket only.

The path is not in the OpenAPI document: its bodies are MessagePack, and it serves only the user who runs the gateway,
whatever role a caller's key has.
"""

from collections.abc import Collection
from typing import Final, Literal, Protocol

import msgspec
from fastapi import FastAPI, Request, Response

from gateway.admin.idempotent import HEADER
from gateway.errors import BadRequest, Forbidden
from gateway.records.sample import Sample

PATH: Final = "/admin/v1/shadow/straight"
MAX_AT_ONCE: Final = 64
_KIND: Final = "application/msgpack"


class MemoryQueue(Protocol):
    """A queue of samples in memory, such as `gateway.mirror.memory_queue.InMemorySamples`."""

    def claim(
        self, holder: str, most: int, lease_seconds: float, *, skipping: Collection[str] = ()
    ) -> list[tuple[Sample, int]]:
        """Lease the oldest samples that no evaluator holds; return each with how often it has been claimed."""

    def extend(self, holder: str, ids: Collection[str], seconds: float) -> set[str]:
        """Extend leases to `seconds` from now; return the ids that the holder still holds."""

    def finish(self, sample_id: str, holder: str | None = None) -> bool:
        """Remove a sample that was evaluated; return whether the holder still held it."""

    def give_up(self, sample_id: str, holder: str | None = None, *, again_after_seconds: float | None = None) -> bool:
        """Give a sample back to be claimed again after a time, or drop it if no time is given."""


class EvaluatorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the evaluator to the queue.

    Attributes:
        do: The operation.
        holder: The evaluator's name.
        most: The greatest number of samples to claim.
        seconds: The length of the lease; for `give_up`, the time until the sample may be claimed again, None for never.
        ids: The samples to extend, finish or give up.
        skipping: Aliases whose samples are not claimed.
    """

    do: Literal["claim", "extend", "finish", "give_up"]
    holder: str
    most: int = 0
    seconds: float | None = None
    ids: tuple[str, ...] = ()
    skipping: tuple[str, ...] = ()


def add_memory_queue(app: FastAPI, queue: MemoryQueue) -> None:
    """Add the path of the queue of samples in memory to the control plane."""

    @app.post(PATH, include_in_schema=False)
    async def serve_memory_queue(request: Request) -> Response:
        if not request.state.is_local:
            raise Forbidden(
                "Samples that may not be stored are given to this machine's own evaluator alone, over the control "
                "socket.",
                code="role_not_allowed",
            )
        if HEADER in request.headers:
            raise BadRequest(f"`{HEADER}` is not taken here: the reply would be stored, and its samples may not be.")
        try:
            command = msgspec.msgpack.decode(await request.body(), type=EvaluatorRequest)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The body is not what an evaluator sends: {error}.") from None
        return Response(msgspec.msgpack.encode(_answer(queue, command)), media_type=_KIND)


def _answer(queue: MemoryQueue, command: EvaluatorRequest) -> list[Sample] | set[str]:
    if command.do == "claim":
        most = min(command.most, MAX_AT_ONCE)
        found = queue.claim(command.holder, most, command.seconds or 0.0, skipping=command.skipping)
        return [sample for sample, _ in found]
    if command.do == "extend":
        return queue.extend(command.holder, command.ids, command.seconds or 0.0)
    if command.do == "finish":
        return {each for each in command.ids if queue.finish(each, command.holder)}
    return {each for each in command.ids if queue.give_up(each, command.holder, again_after_seconds=command.seconds)}
