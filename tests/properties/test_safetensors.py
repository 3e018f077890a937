"""Hostile safetensors files: a report each, no crash, bounded memory, and never more lenient than the library.

What we accept, `safetensors.safe_open` opens too, with the same names, dtypes and shapes.
"""

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.artifact import InvalidArtifact, read_manifest
from adapters.safetensors_file import BITS
from adapters.verify import EngineLimits, Report, verify
from tests.support.adapter_folders import fitting_tensors, safetensors, write_adapter
from tests.support.examples import examples

CASES = settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = safetensors(fitting_tensors())
DATA = 8 + int.from_bytes(GOOD[:8], "little")
# A hostile file of some KB must not take more than a few times a piece's 4 MB.
MAX_BYTES = 24_000_000

numbers = st.one_of(
    st.integers(0, 40),
    st.sampled_from([-1, 2**31, 2**53, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, 1.5, True, None, "4", -0.0]),
)
leaves = st.one_of(numbers, st.text(max_size=8), st.sampled_from(["F32", "BF16", "__metadata__"]))
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "f32", "F12", ""]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=1, max_size=3),
    },
    optional={"more": values},
)
headers = st.dictionaries(
    st.one_of(st.text(max_size=8), st.sampled_from(["__metadata__", "m.lora_A.weight", "m.lora_B.weight"])),
    st.one_of(entries, values),
    max_size=4,
)


@st.composite
def flipped(draw: st.DrawFn) -> bytes:
    """A good file with up to four bits flipped, mostly in its header."""
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.one_of(st.integers(0, DATA - 1), st.integers(0, len(content) - 1)))
        content[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@st.composite
def replaced(draw: st.DrawFn) -> bytes:
    """A good file with a piece of its header replaced by what JSON readers disagree about."""
    header = GOOD[8:DATA]
    old = draw(st.sampled_from([b'"F32"', b"[4, 8]", b"[0, 128]", b"0", b":", b",", b'"dtype"', b"{", b" "]))
    odd = [
        b"-0",
        b"1e3",
        b"NaN",
        b'"\\ud800"',
        b"\xff",
        b"\x00",
        b"null",
        b"[[[[",
        b"9" * 5000,
        b"1.0",
        b'"a":1,',
        b"\t",
        b"",
    ]
    new = draw(st.one_of(st.sampled_from(odd), st.binary(max_size=6)))
    changed = header.replace(old, new, draw(st.integers(1, 3)))
    return len(changed).to_bytes(8, "little") + changed + GOOD[DATA:]


@st.composite
def random_headers(draw: st.DrawFn) -> bytes:
    """Random JSON as a header, in front of some bytes."""
    packed = json.dumps(draw(headers)).encode() + b" " * draw(st.integers(0, 2))
    return len(packed).to_bytes(8, "little") + packed + bytes(draw(st.integers(0, 64)))


@st.composite
def hostile_sizes(draw: st.DrawFn) -> bytes:
    """A header that claims any length at all, and a file that is cut anywhere."""
    length = draw(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2, 100_000_000, DATA - 9, DATA - 7])))
    content = length.to_bytes(8, "little") + GOOD[8:]
    return content[: draw(st.integers(0, len(content)))]


files = st.one_of(flipped(), replaced(), random_headers(), hostile_sizes(), st.binary(max_size=64))


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as place:
        yield write_adapter(Path(place) / "adapter", tensors=fitting_tensors())


def look(folder: Path, content: bytes) -> Report:
    (folder / "adapter_model.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        report = verify(folder, base=None, limits=EngineLimits())
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    return report


def library_reads(path: Path) -> dict[str, tuple[str, list[int]]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # it is no dict


def judge(folder: Path, content: bytes) -> bool:
    """Look at a file; return whether it was accepted, having compared it with what the library reads."""
    report = look(folder, content)
    if not report.is_accepted:
        assert all(problem.code and problem.message and problem.remedy for problem in report.problems)
        json.dumps([str(problem.value) for problem in report.problems])
        return False
    manifest = report.check()
    read = library_reads(folder / "adapter_model.safetensors")
    assert len(read) == manifest.tensors
    assert {dtype for dtype, _ in read.values()} == set(manifest.dtypes)
    return True


@settings(CASES, max_examples=examples(150))
@given(content=files)
def test_any_bytes_are_refused_or_are_what_the_library_reads_too(folder: Path, content: bytes) -> None:
    judge(folder, content)


@pytest.mark.simulation  # 20 s: most of it is hypothesis drawing
def test_two_thousand_hostile_files_are_judged_as_the_library_would(folder: Path) -> None:
    accepted: list[bool] = []

    @CASES
    @given(content=files)
    def every(content: bytes) -> None:
        accepted.append(judge(folder, content))

    every()
    assert len(accepted) >= 2_000
    assert 0 < sum(accepted) < len(accepted) / 2, "some flipped bits are in values, and such files are fine"


@settings(CASES, max_examples=examples(150))
@given(content=files)
def test_any_bytes_have_a_digest_or_a_reason(folder: Path, content: bytes) -> None:
    (folder / "adapter_model.safetensors").write_bytes(content)
    try:
        manifest = read_manifest(folder)
    except InvalidArtifact as error:
        reason = str(error)
    else:
        reason = ""
        assert len(library_reads(folder / "adapter_model.safetensors")) == manifest.tensors
    assert len(reason) < 2_000


@settings(CASES, max_examples=examples(60))
@given(
    config=st.dictionaries(
        st.one_of(
            st.text(max_size=5),
            st.sampled_from(
                [
                    "r",
                    "lora_alpha",
                    "target_modules",
                    "rank_pattern",
                    "alpha_pattern",
                    "bias",
                    "modules_to_save",
                    "peft_type",
                    "init_lora_weights",
                    "base_model_name_or_path",
                    "use_dora",
                ]
            ),
        ),
        values,
        max_size=8,
    )
)
def test_any_config_is_judged_without_a_crash(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    kept = path.read_bytes()
    good = json.loads(kept)
    (folder / "adapter_model.safetensors").write_bytes(GOOD)
    try:
        path.write_text(json.dumps({**good, **config}))
        report = verify(folder, base=None, limits=EngineLimits())
        assert report.is_accepted == (not report.errors)
        if report.is_accepted:
            assert report.check().rank > 0
    finally:
        path.write_bytes(kept)
