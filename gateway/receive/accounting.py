"""What a request counts to besides its cell: the rollout that assigned it an arm, the limits it was let in under.

And who gets a copy of it, if it was tapped.
"""

from collections.abc import Collection, Mapping

from gateway.decide.exposure import Exposure
from gateway.decide.place import Terms
from gateway.decide.route import RouteTable
from gateway.errors import Saturated, ServingError
from gateway.observe.ledger import Cell, Ledger
from gateway.observe.tally import Tallies, is_failure
from gateway.openai.lax import number_of
from gateway.openai.prompt_size import prompt_tokens
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


class RequestAccounting:
    """Where one request is counted: the cell of whoever serves it, its rollout's tally, its limits, its copy.

    Args:
        request: Which is counted.
        ledger: Of the worker's cells.
        tallies: Of the worker's rollouts.
    """

    __slots__ = ("_ledger", "_prompt_tokens", "_request", "_tallies", "_tokens_per_piece", "cell", "served")

    def __init__(self, request: Request, ledger: Ledger, tallies: Tallies) -> None:
        self._request = request
        self._ledger = ledger
        self._tallies = tallies
        self._prompt_tokens = 0  # about how many, where that may be wanted
        self._tokens_per_piece = 1
        self.cell: Cell  # of who serves it
        self.served: Placement | None = None  # who serves it, if anyone does

    def move_to(self, placed: Placement) -> None:
        """Count the request where it is sent; it was not served where it was sent before."""
        if self.served is not None:
            self.cell.in_flight -= 1
            self.cell.retries += 1
        self.cell = cell = self._ledger.cell(placed.alias, placed.version)
        cell.in_flight += 1
        self.served = placed

    def drop_body(self) -> None:
        """Let go of the body: no other try can come. What it costs is estimated first, where there are limits."""
        if self._request.lease is not None:
            self._estimate()
        self._request.drop_body()

    def _estimate(self) -> None:
        request, fields = self._request, self._request.fields
        if fields is not None and request.endpoint.costs_tokens:
            body = request.body
            self._prompt_tokens = prompt_tokens(fields, len(body) if isinstance(body, bytes) else body.size)
            self._tokens_per_piece = max(1, number_of(fields.stream_interval) or 1)

    def count_error(self, code: str) -> None:
        """Count an error that the caller was told."""
        (self.cell if self.served is not None else self._ledger.cell()).count_error(code)

    def close(
        self, reply: Reply | None, status: int, now: float, *, client_left: bool, has_failed: bool, was_at_work: bool
    ) -> None:
        """Count the end of the request.

        Args:
            reply: What has begun, if anything.
            status: What its caller got.
            now: Monotonic seconds.
            client_left: Its client did not wait for the end.
            has_failed: We ended the reply with an error after its head.
            was_at_work: An engine had the request and had not ended its reply.
        """
        request = self._request
        cell = self.cell if self.served is not None else self._ledger.cell()
        if self.served is not None:
            cell.in_flight -= 1
        cell.count_status(status)
        if client_left and self.served is not None:
            cell.count_error("client_gone")
        cell.observe_duration(now - request.received_at)
        if request.lease is not None:
            request.lease.end(self._cost(reply, was_at_work=was_at_work), now)
        if request.fields is not None:
            request.drop_body()  # who loads its version still knows us
        is_in_band = has_failed or (reply is not None and reply.has_failed)
        if reply is not None and reply.tap is not None:
            reply.tap.end(now, client_left=client_left, has_failed=is_in_band)
        if request.exposure is not None:
            cell.count_exposure(request.exposure.arm)
            self._tally(request.exposure, status, now, client_left=client_left, is_in_band=is_in_band)

    def _cost(self, reply: Reply | None, *, was_at_work: bool) -> int:
        """Return the tokens that the request has cost: those told, else an estimate of what an engine worked on."""
        tokens = reply.usage_tokens() if reply is not None else 0
        if tokens or not self._request.endpoint.costs_tokens or (reply is None and not was_at_work):
            return tokens
        self._estimate()
        tokens = self._prompt_tokens
        if reply is not None:
            tokens = reply.estimate_tokens(self._prompt_tokens, self._tokens_per_piece)
        self.cell.estimated_tokens += tokens
        return tokens

    def _tally(self, exposure: Exposure, status: int, now: float, *, client_left: bool, is_in_band: bool) -> None:
        if client_left:
            self._tallies.count_departure(exposure)
            return
        arm = self.served.arm if self.served is not None else None
        is_error = is_failure(exposure, arm, status, is_in_band=is_in_band)
        self._tallies.count(exposure, is_error=is_error, seconds=now - self._request.received_at)
