"""Accounting of one request: the metrics of the version that served it, its rollout, its rate limits, its copy."""

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
    """Place the request as `pipeline.answer` does, and record its exposure, which counts even if nobody serves it."""
    try:
        placed = answer(request.call, table, in_flight, tried, terms)
    except (ServingError, Saturated) as error:
        request.exposure = error.exposure
        raise
    request.exposure = placed.exposure
    return placed


class RequestAccounting:
    """Counts one request from placement to end.

    Args:
        request: The request to count.
        ledger: The worker's metric cells, one for each alias and version.
        tallies: The worker's counts for rollouts, by stage and arm.
    """

    __slots__ = ("_ledger", "_prompt_tokens", "_request", "_tallies", "_tokens_per_piece", "cell", "served")

    def __init__(self, request: Request, ledger: Ledger, tallies: Tallies) -> None:
        self._request = request
        self._ledger = ledger
        self._tallies = tallies
        self._prompt_tokens = 0  # an estimate, made only where token limits may need it
        self._tokens_per_piece = 1
        self.cell: Cell  # of the version that serves it
        self.served: Placement | None = None  # the present placement; None until the request is first sent

    def move_to(self, placed: Placement) -> None:
        """Count the request as in flight at `placed`; an earlier placement counts it as a retry."""
        if self.served is not None:
            self.cell.in_flight -= 1
            self.cell.retries += 1
        self.cell = cell = self._ledger.cell(placed.alias, placed.version)
        cell.in_flight += 1
        self.served = placed

    def drop_body(self) -> None:
        """Free the body once no retry can need it. Under token limits its cost is estimated first."""
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
        """Count an error that was sent to the caller."""
        (self.cell if self.served is not None else self._ledger.cell()).count_error(code)

    def close(
        self, reply: Reply | None, status: int, now: float, *, client_left: bool, has_failed: bool, was_at_work: bool
    ) -> None:
        """Count the end of the request.

        Args:
            reply: The reply, if it has begun.
            status: The HTTP status that the caller got.
            now: Monotonic seconds.
            client_left: The client closed its connection before the end.
            has_failed: The gateway ended the reply with an error after its head.
            was_at_work: An engine had the request and had not finished its reply.
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
            request.drop_body()  # a pending load of its version still refers to this request
        is_in_band = has_failed or (reply is not None and reply.has_failed)
        if reply is not None and reply.tap is not None:
            reply.tap.end(now, client_left=client_left, has_failed=is_in_band)
        if request.exposure is not None:
            cell.count_exposure(request.exposure.arm)
            self._tally(request.exposure, status, now, client_left=client_left, is_in_band=is_in_band)

    def _cost(self, reply: Reply | None, *, was_at_work: bool) -> int:
        """Return the tokens to charge: the reply's usage, else an estimate of what an engine worked on."""
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
