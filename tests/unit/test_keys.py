"""Keys as values: made, expired, put in another's place."""

import pytest

from gateway.decide.authenticate import Role, authenticate
from gateway.decide.limit import Rates
from gateway.errors import Unauthenticated
from gateway.records.state import Desired, KeyRecord
from gateway.store.keys import KeyOutOfUse, UnknownKey, create_key, key_view, principals, revoke_key, rotate_key

NOW = 1_000_000.0


def made(
    *, expires: int | None = None, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
) -> tuple[Desired, KeyRecord, str]:
    return create_key(
        Desired(),
        Role.APP_PIN,
        NOW,
        "n",
        ["b", "a"],
        expires=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )


def test_a_key_is_good_until_the_second_it_expires() -> None:
    desired, record, key = made(expires=int(NOW) + 10)
    keys = principals(desired.keys)
    assert authenticate(key.encode(), keys, lambda: NOW + 9.999).id == record.id
    with pytest.raises(Unauthenticated) as caught:
        authenticate(key.encode(), keys, lambda: NOW + 10)
    assert (caught.value.status, caught.value.code) == (401, "expired_api_key")


def test_a_rotated_key_has_an_heir_with_its_rights_limits_and_account() -> None:
    desired, old, old_key = made(requests_per_minute=5, tokens_per_minute=7, expires=int(NOW) + 1_000)
    desired, new, new_key = rotate_key(desired, old.id, NOW + 100, overlap_seconds=50)
    keys = principals(desired.keys)
    before = authenticate(old_key.encode(), keys, lambda: NOW + 149)
    after = authenticate(new_key.encode(), keys, lambda: NOW + 149)
    assert (after.role, after.models, after.rates) == (before.role, before.models, before.rates)
    assert after.rates == Rates(requests_per_minute=5, tokens_per_minute=7)
    assert before.unit == after.unit == old.id != after.id
    with pytest.raises(Unauthenticated):
        authenticate(old_key.encode(), keys, lambda: NOW + 150)
    assert new.expires == NOW + 1_100, "as long to live as the old one had"
    assert [each.id for each in desired.keys] == [old.id, new.id]
    assert desired.keys[0].replaced_by == new.id
    _, third, _ = rotate_key(desired, new.id, NOW + 200)
    assert third.account == old.id


def test_an_overlap_does_not_prolong_a_key() -> None:
    desired, old, _ = made(expires=int(NOW) + 60)
    desired, _, _ = rotate_key(desired, old.id, NOW)
    assert desired.keys[0].expires == int(NOW) + 60


def test_a_key_that_is_out_of_use_has_no_heir() -> None:
    desired, old, _ = made(expires=int(NOW) + 60)
    with pytest.raises(KeyOutOfUse, match="expired"):
        rotate_key(desired, old.id, NOW + 60)
    desired, new, _ = rotate_key(desired, old.id, NOW)
    with pytest.raises(KeyOutOfUse, match=new.id):
        rotate_key(desired, old.id, NOW)
    with pytest.raises(UnknownKey, match="`nobody`"):
        rotate_key(desired, "nobody", NOW)
    with pytest.raises(ValueError, match="below 0"):
        rotate_key(desired, new.id, NOW, -1)


def test_a_key_that_would_be_born_expired_is_not_made() -> None:
    with pytest.raises(ValueError, match="not after now"):
        made(expires=int(NOW))
    with pytest.raises(ValueError, match="`0`"):
        made(requests_per_minute=0)


def test_revoking_one_of_two_leaves_the_other() -> None:
    desired, old, _ = made()
    desired, new, _ = rotate_key(desired, old.id, NOW)
    assert [each.id for each in revoke_key(desired, old.id).keys] == [new.id]


def test_what_is_shown_of_a_key_is_never_the_key() -> None:
    _, record, key = made(expires=int(NOW) + 5)
    shown = key_view(record, NOW + 5)
    assert (shown["state"], shown["models"]) == ("expired", ["a", "b"])
    assert key not in str(shown)
    assert record.digest not in str(shown)
