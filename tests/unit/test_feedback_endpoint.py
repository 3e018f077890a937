"""What is feedback and what is not, and what this worker remembers of its requests."""

import json
from typing import Any

import pytest

from gateway.decide.assign import Arm
from gateway.decide.authenticate import Principal, Role
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.errors import BadRequest, RateLimited
from gateway.pipeline import Placement
from gateway.receive.failures import reply_of
from gateway.receive.feedback_endpoint import read_feedback
from gateway.receive.feedback_rates import FeedbackRates
from gateway.receive.recent_requests import RecentRequests
from gateway.records.feedback import Feedback

GOOD = {"request_id": "req-1", "score": 0.25, "comment": "slow"}


def given(**fields: Any) -> Feedback:
    return read_feedback(json.dumps({"request_id": "req-1", **fields}).encode(), "me", 5.0)


@pytest.mark.parametrize(
    ("fields", "kind", "value", "is_bad"),
    [
        ({"score": 1}, "score", 1.0, False),
        ({"score": 0}, "score", 0.0, True),
        ({"score": 0.5}, "score", 0.5, False),
        ({"thumb": "up"}, "thumb", 1.0, False),
        ({"thumb": "down", "score": None}, "thumb", 0.0, True),
        ({"label": "rude"}, "label", None, None),
    ],
)
def test_a_score_a_thumb_or_a_label_is_feedback(
    fields: dict[str, Any], kind: str, value: float | None, is_bad: bool | None
) -> None:
    found = given(**fields)
    assert (found.kind, found.value, found.is_bad) == (kind, value, is_bad)
    assert (found.request_id, found.account, found.at, found.about) == ("req-1", "me", 5.0, None)


def test_a_later_word_of_the_same_account_has_the_same_id() -> None:
    assert given(score=1).id == given(thumb="down").id
    other = read_feedback(json.dumps(GOOD).encode(), "another", 5.0)
    assert len({given(score=1).id, other.id, given(score=1, request_id="req-2").id}) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b'{"score": 1}', "request_id"),
        (b'{"request_id": "", "score": 1}', "request_id"),
        (b'{"request_id": 7, "score": 1}', "request_id"),
        (b'{"request_id": "a\\nb", "score": 1}', "request_id"),
        (b'{"request_id": "%b", "score": 1}' % (b"x" * 129), "request_id"),
        (b'{"request_id": "r"}', "score"),
        (b'{"request_id": "r", "comment": "x"}', "score"),
        (b'{"request_id": "r", "score": 1, "thumb": "up"}', "thumb"),
        (b'{"request_id": "r", "score": 1.01}', "score"),
        (b'{"request_id": "r", "score": -1}', "score"),
        (b'{"request_id": "r", "score": NaN}', "score"),
        (b'{"request_id": "r", "score": true}', "score"),
        (b'{"request_id": "r", "score": "1"}', "score"),
        (b'{"request_id": "r", "thumb": "sideways"}', "thumb"),
        (b'{"request_id": "r", "thumb": ["up"]}', "thumb"),
        (b'{"request_id": "r", "label": ""}', "label"),
        (b'{"request_id": "r", "label": "\\u0000"}', "label"),
        (b'{"request_id": "r", "label": "%b"}' % (b"x" * 65), "label"),
        (b'{"request_id": "r", "score": 1, "comment": "%b"}' % (b"x" * 2001), "comment"),
        (b'{"request_id": "r", "score": 1, "comment": {}}', "comment"),
        (b'{"request_id": "r", "scores": 1}', "scores"),
    ],
)
def test_what_is_no_feedback_is_refused_with_the_field_at_fault(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read_feedback(body, "me", 5.0)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize("fields", ['"\\ud83d": 1', '"thumb": "\\ud83d"', '"score": "\\ud83d"'])
def test_what_a_client_has_cut_in_two_is_told_in_a_reply_like_any_mistake(fields: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_feedback(b'{"request_id": "r", %b}' % fields.encode(), "me", 5.0)
    assert b"`?`" in reply_of(caught.value, b"r", keep_alive=True, is_http10=False)


def test_texts_can_be_stored_whatever_a_client_has_cut_in_two() -> None:
    found = read_feedback(b'{"request_id": "r", "label": "a\\u0000b", "comment": "\\ud83d\\u0000!"}', "me", 5.0)
    assert (found.label, found.comment) == ("ab", "?!")


def placement(version: str, tag: RolloutTag | None = None) -> Placement:
    exposure = Exposure(tag, "support", Arm.CANDIDATE, "u") if tag else None
    return Placement("support", version, Arm.CANDIDATE, "split", "http://e", exposure)


OTHER = Principal(id="other", role=Role.APP)
CALLER = Principal(id="k2", role=Role.APP, account="k1")


def test_a_worker_remembers_what_served_its_last_requests() -> None:
    recent = RecentRequests(2)
    tag = RolloutTag(id="r1", stage=3)
    recent.note((b"a", placement("v1"), CALLER))
    recent.note((b"b", placement("v2", tag), CALLER))
    recent.note((b"c", placement("v3"), CALLER))
    found = recent.about([(name, "k1") for name in ("a", "b", "c", "d", "é")])
    b, c = found["b", "k1"], found["c", "k1"]
    assert len(found) == 2
    assert (b.version, b.arm, b.rollout, b.stage) == ("v2", "candidate", "r1", 3)
    assert (c.rollout, c.account, c.alias) == ("", "k1", "support")


def test_of_two_requests_with_one_id_the_later_is_meant() -> None:
    recent = RecentRequests(5)
    for version in ("v1", "v2"):
        recent.note((b"a", placement(version), CALLER))
    assert recent.about([("a", "k1")])["a", "k1"].version == "v2"


def test_of_an_id_that_two_accounts_have_sent_each_means_its_own_request() -> None:
    recent = RecentRequests(5)
    recent.note((b"a", placement("mine"), CALLER))
    recent.note((b"a", placement("theirs"), OTHER))
    found = recent.about([("a", "k1"), ("a", "other"), ("a", "third")])
    assert {account: each.version for (_, account), each in found.items()} == {"k1": "mine", "other": "theirs"}


def test_of_an_id_that_we_have_made_it_is_told_whose_it_is() -> None:
    recent = RecentRequests(5)
    recent.note((b"req-1", placement("mine"), CALLER))
    assert list(recent.about([("req-1", "other")])) == [("req-1", "k1")]
    recent.note((b"a", placement("mine"), CALLER))
    assert recent.about([("a", "other")]) == {}


def test_an_account_gives_so_much_feedback_in_a_minute_and_others_notice_nothing() -> None:
    rates = FeedbackRates(per_minute=60)
    for _ in range(60):
        rates.take("loud", 0.0)
    with pytest.raises(RateLimited) as caught:
        rates.take("loud", 0.0)
    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 1)
    rates.take("quiet", 0.0)
    rates.take("loud", 1.1)
    for number in range(10_100):  # as many accounts as may be: memory is bounded, and who is at the bound stays there
        rates.take(f"account-{number}", 1.2)
    assert len(rates._buckets) <= 10_000


def test_a_ring_of_nothing_remembers_nothing() -> None:
    recent = RecentRequests(0)
    recent.note((b"a", placement("v1"), CALLER))
    assert recent.about([("a", "k1")]) == {}
