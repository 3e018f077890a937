"""A language model as judge, over real HTTP: what a bad one says is a tie or nothing, and it is found out."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from evaluators.observation import Drift, Kind, Observation, Outcome, Pair, Prompt, Score, ScoredPair, Unscored
from gateway.evaluate.judge import JUDGE, Judge, Opinion, version_of
from gateway.evaluate.judges import StoredJudges
from gateway.records.routes import JudgePolicy, MirrorPolicy
from gateway.store.pairs import Pairs
from gateway.store.sql import open_store
from tests.support.patience import PATIENCE_SECONDS, until

PROMPT = Prompt(messages=(("user", "Where is my order?"),))
WORSE, BETTER = Observation(text="I cannot say."), Observation(text="It comes on Monday. GOOD")


@contextmanager
def fake_judge(says: Callable[[str, str], str], status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server whose verdict is `says(answer A, answer B)`; yields its URL and the requests it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append({"path": self.path, "key": self.headers.get("authorization"), **body})
            if "temperature" in body and status == 400:  # as models that take none
                reply, code = b'{"error": {"message": "temperature is not supported"}}', 400
            else:
                shown = body["messages"][1]["content"].split("answer A:")[1].split("answer B:")
                message = {"role": "assistant", "content": says(shown[0], shown[1])}
                reply = json.dumps({"choices": [{"message": message}], "usage": {"total_tokens": 40}}).encode()
                code = status if status != 400 else 200
            self.send_response(code)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def judged(
    number: int, kind: Kind = Kind.CANDIDATE, drift: Drift | None = None, score: Outcome | None = None
) -> ScoredPair:
    return ScoredPair(
        sample=f"{number:032x}",
        alias="support",
        kind=kind,
        control="a",
        other="b",
        drift=drift,
        scores={} if score is None else {JUDGE: score},
    )


def opinions(policy: JudgePolicy, pairs: list[Pair], *, key: str | None = None, learns: bool = False) -> list[Opinion]:
    """What a judge says of pairs, one after another; with `learns`, what it said of one version twice is remembered."""

    async def work() -> list[Opinion]:
        judge = Judge(policy, key, 5.0, time.monotonic)
        found = []
        try:
            for number, pair in enumerate(pairs):
                opinion = await judge.opinion(f"{number:032x}", pair, judged(number, pair.kind))
                found.append(opinion)
                if learns:
                    judge.learn([judged(number, pair.kind, score=opinion.outcome)])
            return found
        finally:
            await judge.close()

    return asyncio.run(work())


def a_pair(kind: Kind = Kind.CANDIDATE, control: Observation = WORSE, candidate: Observation = BETTER) -> Pair:
    return Pair(kind=kind, prompt=PROMPT, control=control, candidate=candidate)


def noise_pairs(count: int) -> list[Pair]:
    return [
        a_pair(Kind.NOISE, Observation(text=f"answer {number}"), Observation(text=f"reply {number}"))
        for number in range(count)
    ]


def fair(first: str, second: str) -> str:
    """Prefers what is GOOD, whatever its place."""
    winner = "A" if "GOOD" in first and "GOOD" not in second else "B" if "GOOD" in second else "tie"
    return json.dumps({"winner": winner})


def reason_of(opinion: Opinion) -> str:
    assert isinstance(opinion.outcome, Unscored)
    return opinion.outcome.reason


def test_a_fair_judge_prefers_the_better_answer_in_both_orders_and_is_asked_once_for_each() -> None:
    with fake_judge(fair) as (url, got):
        policy = JudgePolicy(url=url, model="judge-1", rubric="Be right.")
        better, worse, again = opinions(
            policy, [a_pair(), a_pair(control=BETTER, candidate=WORSE), a_pair()], key="secret"
        )
    assert isinstance(better.outcome, Score)
    assert (better.outcome.value, better.outcome.control, better.outcome.candidate) == (1.0, 0.0, 1.0)
    assert isinstance(worse.outcome, Score)
    assert worse.outcome.value == 0.0
    assert again.outcome == better.outcome
    assert len(got) == 2  # the pair the other way round asks the same two questions, and so does the pair again
    assert (better.tokens, worse.tokens) == (80, 0)
    assert {each["key"] for each in got} == {"Bearer secret"}
    assert {each["path"] for each in got} == {"/v1/chat/completions"}
    assert "Be right." in got[0]["messages"][0]["content"]


def test_a_judge_that_goes_by_the_place_makes_ties_and_is_found_out_by_pairs_of_one_version() -> None:
    with fake_judge(lambda *_: "A") as (url, _):
        policy = JudgePolicy(url=url, model="biased")
        (tie,) = opinions(policy, [a_pair()])
        assert isinstance(tie.outcome, Score)
        assert tie.outcome.value == 0.5
        *noise, last = opinions(policy, [*noise_pairs(20), a_pair()], learns=True)
    assert all(isinstance(each.outcome, Score) and each.outcome.value == 0.5 for each in noise)
    assert reason_of(last) == "uncalibrated"


def test_a_judge_that_rolls_dice_is_found_out_by_pairs_of_one_version() -> None:
    dice = random.Random(5)  # which needs 18 pairs; the median of seeds needs 107
    with fake_judge(lambda *_: dice.choice("AB")) as (url, _):
        policy = JudgePolicy(url=url, model="noisy")
        *noise, last = opinions(policy, [*noise_pairs(40), a_pair()], learns=True)
    assert reason_of(last) == "uncalibrated"
    values = [each.outcome.value for each in noise if isinstance(each.outcome, Score)]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.15)  # its win rate alone would not have told


def test_a_judge_that_prefers_the_replay_is_found_out_by_its_win_rate() -> None:
    with fake_judge(lambda first, _: "A" if "reply" in first else "B") as (url, _):
        *_, last = opinions(JudgePolicy(url=url, model="partial"), [*noise_pairs(30), a_pair()], learns=True)
    assert reason_of(last) == "uncalibrated"


def test_a_fair_judge_stays_believed() -> None:
    with fake_judge(fair) as (url, _):
        *_, last = opinions(JudgePolicy(url=url, model="fair"), [*noise_pairs(50), a_pair()], learns=True)
    assert isinstance(last.outcome, Score)


@pytest.mark.parametrize(
    ("says", "status", "reason"),
    [("I like the first one.", 200, "nonsense"), ('{"winner": "A"}', 500, "judge_status_500")],
)
def test_what_a_judge_says_that_is_no_verdict_is_unscored(says: str, status: int, reason: str) -> None:
    with fake_judge(lambda *_: says, status) as (url, _):
        (opinion,) = opinions(JudgePolicy(url=url, model="m"), [a_pair()])
    assert reason_of(opinion) == reason
    assert opinion.weight == 1.0


def test_a_judge_that_is_away_is_unscored() -> None:
    (opinion,) = opinions(JudgePolicy(url="http://127.0.0.1:9/v1", model="m"), [a_pair()])
    assert reason_of(opinion) == "judge_unreachable"


def test_a_model_that_takes_no_temperature_is_asked_without() -> None:
    with fake_judge(fair, 400) as (url, got):
        (opinion,) = opinions(JudgePolicy(url=url, model="m"), [a_pair()])
    assert isinstance(opinion.outcome, Score)
    assert ["temperature" in each for each in got] == [True, False, False]


def test_the_hours_budget_and_the_share_hold() -> None:
    with fake_judge(fair) as (url, _):
        budget = [
            isinstance(each.outcome, Score)
            for each in opinions(JudgePolicy(url=url, model="m", pairs_per_hour=2), [a_pair() for _ in range(4)])
        ]
        shared = opinions(JudgePolicy(url=url, model="m", share=2_500), [a_pair() for _ in range(400)])
        none = opinions(JudgePolicy(url=url, model="m", share=0), [a_pair()])
    assert budget == [True, True, False, False]
    chosen = [each for each in shared if isinstance(each.outcome, Score)]
    assert 70 <= len(chosen) <= 130
    assert {each.weight for each in chosen} == {4.0}
    assert reason_of(none[0]) == "not_chosen"


def test_a_pair_that_moved_is_judged_oftener_whichever_of_its_answers_was_scored() -> None:
    moved = Drift(n_tokens=10, log_ratio=2.0, kl=1.0, kl_bound=0.8, moved_share=1.0, top1_agreement=0.2)
    weights = []
    with fake_judge(fair) as (url, _):

        async def work(one: ScoredPair) -> float:
            judge = Judge(JudgePolicy(url=url, model="m", share=400), None, 5.0, time.monotonic)
            try:
                return (await judge.opinion(one.sample, a_pair(), one)).weight
            finally:
                await judge.close()

        for number in range(20):
            one = judged(number)
            sides = structs.replace(one, drift=moved), structs.replace(one, drift_back=moved)
            weights.append([asyncio.run(work(side)) for side in sides])
    assert all(forth == back for forth, back in weights)
    chosen = [forth for forth, _ in weights if forth != 1.0]
    assert chosen == [pytest.approx(1 / 0.42)] * len(chosen)  # ten and a half times the share of 4 %
    assert len(chosen) > 3


def test_equal_answers_are_a_tie_without_being_asked_and_empty_ones_nothing() -> None:
    with fake_judge(fair) as (url, got):
        same, empty = opinions(
            JudgePolicy(url=url, model="m"), [a_pair(candidate=WORSE), a_pair(candidate=Observation(text=""))]
        )
    assert isinstance(same.outcome, Score)
    assert same.outcome.value == 0.5
    assert reason_of(empty) == "empty"
    assert got == []


class OnePolicy:
    """The policies of one alias."""

    def __init__(self, judge: JudgePolicy | None) -> None:
        self.judge = judge

    def of(self, _alias: str) -> MirrorPolicy:
        return MirrorPolicy(judge=self.judge)

    def is_over(self, _rollout: str, _at: float) -> bool:
        return False

    def is_scorable(self, _version: str) -> bool:
        return True

    def aliases_with_judge(self) -> list[str]:
        return ["support"] if self.judge else []


def test_a_judge_is_calibrated_by_what_all_evaluators_have_stored_and_anew_with_another_rubric(tmp_path: Path) -> None:
    policy = JudgePolicy(url="http://127.0.0.1:9/v1", model="m", key_env="OTHER_SECRET")
    flip = Score(value=0.5, version=version_of(policy), control=0.5, candidate=0.5)
    store = open_store(tmp_path, now=time.time)
    pairs = Pairs(store)
    for number in range(20):
        assert pairs.add(structs.replace(judged(number, Kind.NOISE, score=flip), at=time.time()))
    policies = OnePolicy(policy)
    asked: list[str] = []

    def key_of(name: str) -> None:
        asked.append(name)

    judges = StoredJudges(policies, pairs, key_of, seconds=PATIENCE_SECONDS, clock=time.monotonic, now=time.time)
    assert judges.of("support") is None  # not asked before it is known whether it is to be believed
    judges.learn(sharers=2)
    judge = judges.of("support")
    assert judge is not None
    assert (judge.calibration.pairs, judge.calibration.is_flagged, judge.sharers) == (20, True, 2)
    assert asked == ["OTHER_SECRET"]
    judges.learn(sharers=2)
    assert judge.calibration.pairs == 20
    assert judges.calibrations()["support"]["state"] == "flagged"
    policies.judge = JudgePolicy(url=policy.url, model="m", share=5_000)
    judges.learn(sharers=1)
    cheaper = judges.of("support")
    assert cheaper is not None
    assert cheaper.calibration.is_flagged  # the same judge, asked less often
    policies.judge = JudgePolicy(url=policy.url, model="m", rubric="Be brief.")
    judges.learn(sharers=1)
    other = judges.of("support")
    assert other is not None
    assert other.calibration.pairs == 0
    policies.judge = JudgePolicy(url="http://[bad", model="m")
    judges.learn(sharers=1)
    assert judges.of("support") is None
    asyncio.run(judges.close())
    store.close()


def test_a_judge_that_hangs_is_left_alone_for_a_while() -> None:
    go_on = threading.Event()

    def hangs(_first: str, _second: str) -> str:
        go_on.wait(PATIENCE_SECONDS)
        return "tie"

    with fake_judge(hangs) as (url, got):

        async def work() -> list[str]:
            now = [0.0]
            judge = Judge(JudgePolicy(url=url, model="m"), None, 0.2, lambda: now[0])
            try:
                told = [reason_of(await judge.opinion("1" * 32, a_pair(), judged(1))) for _ in range(2)]
                now[0] += 61.0
                return [*told, reason_of(await judge.opinion("1" * 32, a_pair(), judged(1)))]
            finally:
                await judge.close()
                go_on.set()

        assert asyncio.run(work()) == ["judge_late", "judge_away", "judge_late"]
    until(lambda: len(got) == 2)


def test_what_was_said_before_counts_once_whatever_the_order_of_requests(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path, now=time.time)
    try:
        pairs, policy = Pairs(store), JudgePolicy(url="http://127.0.0.1:1/v1", model="m")
        tie = Score(value=0.5, version=version_of(policy), control=0.0, candidate=0.0)
        now = time.time()
        for number, at in enumerate((now, now - 50, now - 40, now - 60)):  # the first was judged at once, others late
            pairs.add(structs.replace(judged(number, Kind.NOISE, score=tie), at=at))

        class Told:
            def of(self, _alias: str) -> MirrorPolicy:
                return MirrorPolicy(judge=policy)

            def is_scorable(self, _version: str) -> bool:
                return True

            def is_over(self, _rollout: str, _at: float) -> bool:
                return False

            def aliases_with_judge(self) -> list[str]:
                return ["support"]

        judges = StoredJudges(Told(), pairs, lambda _: None, seconds=1.0, clock=time.monotonic, now=time.time)
        judges.learn(1)
        judges.learn(1)
        judge = judges.of("support")
        assert judge is not None
        assert judge.calibration.pairs == 4
        asyncio.run(judges.close())
    finally:
        store.close()
