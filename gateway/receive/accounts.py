"""What a request counts to besides its cell: the rollout that assigned it an arm, the limits it was let in under.

And who gets a copy of it, if it was tapped.
"""

from collections.abc import Collection, Mapping

from gateway.decide.place import Terms
from gateway.decide.route import RouteTable
from gateway.errors import Saturated, ServingError
from gateway.observe.ledger import Cell
from gateway.observe.tally import Tallies, is_failure
from gateway.pipeline import Placement, answer
from gateway.receive.reply import Reply
from gateway.receive.request import Request


def decide(
    request: Request, table: RouteTable, in_flight: Mapping[str, int], tried: Collection[str], terms: Terms
) -> Placement:
    """Decide who serves, as `answer` does, and note to which rollout the request counts, served or not."""
    try:
        placed = answer(request.call, table, in_flight, tried, terms)
    except (ServingError, Saturated) as error:
        request.exposure = error.exposure
        raise
    request.exposure = placed.exposure
    return placed


def settle(
    request: Request, tallies: Tallies, cell: Cell, served: Placement | None, reply: Reply | None, status: int,
    now: float, *, client_left: bool, has_failed: bool,
) -> None:  # fmt: skip
    """Count the end of a request.

    Args:
        request: Which has ended.
        tallies: The worker's.
        cell: Where its end is counted.
        served: Who served it last, if anyone.
        reply: What has begun, if anything.
        status: What its caller got.
        now: Monotonic seconds.
        client_left: Its client did not wait for the end.
        has_failed: We ended the reply with an error after its head.
    """
    if request.lease is not None:
        # Of a reply that broke off nobody tells the tokens; a piece of a stream has one, nearly always.
        request.lease.end(reply.tokens or reply.pieces if reply is not None else 0, now)
    is_in_band = has_failed or (reply is not None and reply.has_failed)
    if reply is not None and reply.tap is not None:
        reply.tap.end(now, client_left=client_left, has_failed=is_in_band)
    exposure = request.exposure
    if exposure is None:
        return
    cell.exposed(exposure.arm)
    if client_left:
        tallies.left(exposure)
        return
    is_error = is_failure(exposure, served.arm if served is not None else None, status, is_in_band=is_in_band)
    tallies.count(exposure, is_error=is_error, seconds=now - request.received_at)
