"""The values that are stored say what they cannot hold, whoever makes them."""

import pytest

from evaluators.observation import Score
from gateway.decide.authenticate import Role
from gateway.records.declared import find_declared_fields
from gateway.records.routes import MirrorPolicy, RouteLimits, RouteRecord
from gateway.records.state import KeyRecord

DIGEST = "0" * 64


@pytest.mark.parametrize("share", [-1, 10_001])
def test_a_share_beyond_all_of_the_traffic_is_refused(share: int) -> None:
    with pytest.raises(ValueError, match=rf"the mirrored share `{share}` is not in 0\.\.10000 basis points"):
        MirrorPolicy(share=share)
    with pytest.raises(ValueError, match=rf"the noise share `{share}` is not in"):
        MirrorPolicy(noise_share=share)


def test_texts_cannot_be_kept_for_less_than_no_time() -> None:
    with pytest.raises(ValueError, match="retention_seconds `-1`; give 0 or more"):
        MirrorPolicy(retention_seconds=-1)
    assert MirrorPolicy(retention_seconds=0).retention_seconds == 0


def test_a_limit_that_lets_nothing_in_is_refused() -> None:
    with pytest.raises(ValueError, match="requests_per_minute `0`; give at least 1"):
        RouteLimits(requests_per_minute=0)


def test_a_key_without_a_digest_or_with_an_end_before_1970_is_refused() -> None:
    with pytest.raises(ValueError, match="key `k` has no SHA-256 digest"):
        KeyRecord(id="k", digest="secret", role=Role.APP)
    with pytest.raises(ValueError, match="key `k` expires at `-5`"):
        KeyRecord(id="k", digest=DIGEST, role=Role.APP, expires=-5)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_score_is_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=r"value `.*` of a score is not in \[0, 1\]"):
        Score(value=value, version="1")
    with pytest.raises(ValueError, match=r"candidate `.*` of a score is not in"):
        Score(value=0.5, version="1", candidate=value)


def test_a_field_without_a_note_is_in_no_file() -> None:
    assert "created" in RouteRecord.__struct_fields__
    assert "created" not in find_declared_fields(RouteRecord)
    assert "weight" in find_declared_fields(RouteRecord)
