"""YAML from people and from whoever gives them files: hostile text costs little and is said in a line."""

import time

import pytest

from gateway.yaml_text import InvalidYaml, parse

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
HOSTILE: dict[str, str | bytes] = {
    "billion laughs": LAUGHS,
    "holds itself": "a: &a [*a]",
    "brackets": "[" * 1_000,
    "braces": "{a: " * 5_000,
    "indented": "".join(" " * n + "a:\n" for n in range(3_000)),
    "a name twice": "a: 1\na: 2",
    "no such anchor": "a: *b",
    "a list as a name": "? [a]\n: 1",
    "a date that is none": "at: 2026-13-45",
    "python": "!!python/object:os.system []",
    "not UTF-8": b"\xff\xfe\x00",
    "NUL": "a: \x00",
    "merged": "a: &a {b: 1}\nc: {<<: [*a, 1]}",
    "merges itself": "a: &a {<<: *a}",
    "a huge number": "a: " + "9" * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_in_one_line(name: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidYaml) as refused:
        parse(HOSTILE[name])
    assert "\n" not in str(refused.value)
    assert str(refused.value)
    print(f"{name}: {time.process_time() - began:.2f} s")


def test_aliases_and_merges_of_a_usual_size_are_read() -> None:
    assert parse("a: &a {b: 1, c: [1, 2]}\nd: {<<: *a, b: 2}\ne: *a") == {
        "a": {"b": 1, "c": [1, 2]},
        "d": {"b": 2, "c": [1, 2]},
        "e": {"b": 1, "c": [1, 2]},
    }
    assert parse("") is None
