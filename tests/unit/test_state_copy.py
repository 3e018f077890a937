"""The copies on disk that a start reads: whatever becomes of them, it is noticed, and the store is asked."""

import json
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.decide.route import Base
from gateway.records.state import Desired
from gateway.store import snapshot
from gateway.store.copies import DAMAGED
from gateway.store.snapshot import SNAPSHOT_FILE, of_state, read_base
from gateway.store.state_copy import COPY_FILE, read_copy, save_copy
from tests.support.examples import examples
from tests.support.state_records import entry, key, rollout

FLIPS = examples(1_500)
STATE = Desired(version=3, keys=(key(1), key(2)), adapters=(entry("a"),), rollouts=(rollout(),))
DAMAGE = {
    "empty": b"",
    "no JSON": b"\x80\x02",
    "a list": b"[]",
    "a number": b"1e999",
    "null": b"null",
    "nested deeply": b"[" * 100_000,
    "nested deeply within": b'{"sha256":"","content":' + b"[" * 100_000,
    "a huge number": b'{"version":' + b"9" * 5_000 + b"}",
    "wrong types": b'{"version":"three"}',
    "not UTF-8": b'{"version":3,"keys":"\xff"}',
    "half a surrogate": b'{"version":3,"\\ud800":1}',
    "a later release's": b'{"version":3,"more":1}',
    "an empty object, sealed": b'{"sha256":"","content":{}}',
}


def keep_state(folder: Path) -> Path:
    save_copy(folder, STATE)
    return folder / COPY_FILE


def keep_table(folder: Path) -> Path:
    table = of_state(STATE, version=7, base=a_base(), engines=(), with_keys=True)
    snapshot.save(folder, snapshot.encode(table))
    return folder / SNAPSHOT_FILE


def a_base() -> Base:
    return Base(name="base")


COPIES = [
    pytest.param(keep_state, read_copy, STATE, id="desired.json"),
    pytest.param(keep_table, read_base, a_base(), id="snapshot.json"),
]
Keep = Callable[[Path], Path]
Read = Callable[[Path], object]


@pytest.mark.parametrize(("keep", "read", "whole"), COPIES)
def test_a_copy_is_what_was_kept_or_none_whatever_bits_flip(
    tmp_path: Path, keep: Keep, read: Read, whole: object
) -> None:
    rng = random.Random(16)
    path = keep(tmp_path)
    original = path.read_bytes()
    assert read(tmp_path) == whole
    for number in range(FLIPS):
        data = bytearray(original)
        at = rng.randrange(len(data))
        if number % 5 == 3:
            del data[at:]
        elif number % 5 == 4:
            data[at : at + 64] = rng.randbytes(len(data[at : at + 64]))
        else:
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        assert read(tmp_path) is None, (number, at)
        assert not path.exists()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("keep", "read", "whole"), COPIES)
def test_a_damaged_copy_is_put_aside_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: Keep, read: Read, whole: object, damage: str
) -> None:
    path = keep(tmp_path)
    path.write_bytes(DAMAGE[damage])
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path) is None
        assert read(tmp_path) is None  # nothing is there any more
    assert len(caplog.messages) == 1
    assert "put aside" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert path.with_name(path.name + DAMAGED).read_bytes() == DAMAGE[damage]
    keep(tmp_path)
    assert read(tmp_path) == whole


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)], ids=["folder", "pipe", "loop"]
)
@pytest.mark.parametrize(("keep", "read", "whole"), COPIES)
def test_what_is_no_file_in_a_copys_place_is_put_aside(
    tmp_path: Path, keep: Keep, read: Read, whole: object, make: Callable[[Path], object]
) -> None:
    path = keep(tmp_path)
    path.unlink()
    make(path)
    assert read(tmp_path) is None
    keep(tmp_path)
    assert read(tmp_path) == whole


def test_a_copy_of_a_release_before_the_digests_is_read(tmp_path: Path) -> None:
    path = keep_state(tmp_path)
    path.write_bytes(json.dumps(json.loads(path.read_bytes())["content"]).encode())
    assert read_copy(tmp_path) == STATE
