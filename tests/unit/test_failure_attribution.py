"""Whose failure it was that a copy was not answered, and comparators that never return."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import pytest

from evaluators.observation import Kind, Observation, Outcome, Pair, Prompt, Score
from gateway.evaluate.calls import ServerReply
from gateway.evaluate.comparator_runner import MAX_HUNG, ComparatorRunner
from gateway.evaluate.engines import Engine
from gateway.evaluate.failure_attribution import attribute_failure, pair_of_failure
from gateway.evaluate.replay import ReplayBounds
from gateway.records.sample import Sample
from tests.support.patience import PATIENCE_SECONDS

CONTROL, CANDIDATE = "a", "b"
SAMPLE = Sample(
    id="1" * 32,
    request_id="r",
    alias="support",
    kind="candidate",
    control=CONTROL,
    other=CANDIDATE,
    served="control",
    capture="full",
    endpoint="/v1/completions",
    body=b'{"model": "support", "prompt": "hello"}',
    reply=b"{}",
)
ANSWER = (
    b'data: {"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\ndata: [DONE]\n\n'
)


class ScriptedEngine:
    """Answers the candidate with the given statuses, one after the other, and the control with one."""

    def __init__(self, candidate: Sequence[int], control: int = 200) -> None:
        self._statuses = {msgspec.json.encode(CONTROL): [control], msgspec.json.encode(CANDIDATE): list(candidate)}
        self.asked = 0

    async def idle(self) -> None:
        pass

    async def ask(self, _path: str, body: Mapping[str, Any], **_bounds: object) -> ServerReply:
        self.asked += 1
        return ServerReply(status=self._statuses[msgspec.json.encode(body["model"])].pop(0), body=ANSWER)

    def spend(self, tokens: int) -> None:
        assert tokens == 7


@pytest.mark.parametrize(
    ("reason", "again", "control", "expected"),
    [
        ("status_500", 500, 200, (CANDIDATE, 7)),
        ("status_500", 200, 200, (None, 14)),
        ("status_500", 500, 500, (None, 0)),
        ("status_500", 200, 500, (CONTROL, 7)),  # it fails now and then: as often against the one as the other
        ("late", 500, 200, (CANDIDATE, 7)),
        ("status_404", 404, 200, (None, 0)),
        ("status_500", 404, 200, (None, 7)),
        ("status_500", 200, 503, (None, 0)),
    ],
)
def test_a_failure_is_a_versions_own_where_the_other_answers_and_the_engine_says_nothing_of_itself(
    reason: str, again: int, control: int, expected: tuple[str | None, int]
) -> None:
    engine = cast(Engine, ScriptedEngine([again], control))
    found = asyncio.run(attribute_failure(engine, SAMPLE, reason, ReplayBounds()))
    assert found == expected
    if found[0] is not None:
        score = pair_of_failure(SAMPLE, found[0], 0.0).scores["failed"]
        assert isinstance(score, Score)
        assert (score.value, score.candidate) == ((1.0, 1.0) if found[0] == CANDIDATE else (0.0, 0.0))


def test_comparators_that_hang_hold_up_neither_other_pairs_nor_the_evaluators_threads() -> None:
    go_on = threading.Event()
    fine: Mapping[str, Outcome] = {"exact": Score(value=1.0, version="1")}

    def compare(pair: Pair, _names: tuple[str, ...] | None) -> Mapping[str, Outcome]:
        if pair.prompt.text == "hang":
            go_on.wait()
        return fine

    def a_pair(text: str) -> Pair:
        return Pair(
            kind=Kind.CANDIDATE,
            prompt=Prompt(text=text),
            control=Observation(text="x"),
            candidate=Observation(text="y"),
        )

    async def work() -> None:
        comparing = ComparatorRunner(compare, seconds=0.5)  # of which one that does not hang needs next to nothing
        for _ in range(MAX_HUNG):
            assert await comparing.scores(a_pair("fine"), None) == fine
            assert await comparing.scores(a_pair("hang"), None) == {}
        assert sum(each.name == "compare" for each in threading.enumerate()) == MAX_HUNG
        assert await comparing.scores(a_pair("fine"), None) == {}, "no more threads are begun"
        go_on.set()
        while await comparing.scores(a_pair("fine"), None) != fine:
            await asyncio.sleep(0.005)

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await work()

    try:
        asyncio.run(bounded())
    finally:
        go_on.set()


def test_a_comparator_that_would_end_the_process_fails_one_pair() -> None:
    def compare(_pair: Pair, _names: tuple[str, ...] | None) -> Mapping[str, Outcome]:
        raise SystemExit(3)

    pair = Pair(kind=Kind.BASE, prompt=Prompt(), control=Observation(), candidate=Observation())
    with pytest.raises(RuntimeError, match="it would end us"):
        asyncio.run(ComparatorRunner(compare, seconds=PATIENCE_SECONDS).scores(pair, None))
