"""Which base a gateway serves, and which engines serve another."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.decide.assign import Split
from gateway.decide.authenticate import Principal, Role
from gateway.decide.route import Base, EngineState, Route, RouteTable, find_target, usable_models
from gateway.decide.table_base import difference, settle_base
from gateway.receive.listing import list_models
from gateway.serve.model_list import read_models

A = Base(name="a", names=("a",), root="/models/llama", max_model_len=4096)
B = Base(name="b", names=("b",), root="/models/other", max_model_len=4096)


def settled(current: Base | None, *told: Base | None, named: str | None = None, all_asked: bool = True) -> str:
    base = settle_base(current, named, told, all_asked=all_asked)
    return base.name if base is not None else ""


def test_the_first_base_is_the_commonest_once_all_engines_have_been_asked() -> None:
    assert settled(None, None, B, A, all_asked=False) == ""
    assert settled(None, None, B, A) == "b"
    assert settled(None, A, B, B) == "b"
    assert settled(None, None, None) == ""
    two = replace(A, names=("a", "b"), root=B.root)
    assert settled(None, two, B) == "b"  # the name that both know


def test_the_base_that_was_served_stays_while_an_engine_of_it_may_come_back() -> None:
    for told in ((A, B), (None, B), (B, None), (None, None), (B, A, B)):
        assert settled(A, *told) == "a"


def test_when_all_engines_have_been_moved_theirs_is_the_base() -> None:
    assert settled(A, B) == "b"
    assert settled(A, B, B) == "b"
    assert settled(A, B, replace(B, name="c", names=("c",))) == "a"  # moved, and not to one place
    assert settled(A, replace(A, root="/models/llama-2")) == "a"
    moved = settle_base(A, None, [replace(A, root="/models/llama-2")], all_asked=True)
    assert moved is not None
    assert moved.root == "/models/llama-2"


def test_a_rename_by_way_of_both_names_never_leaves_the_gateway_without_an_engine() -> None:
    both = replace(A, name="new", names=("new", "a"))
    renamed = replace(A, name="new", names=("new",))
    base: Base | None = A
    for told in ([both, A], [both, both], [renamed, both], [renamed, renamed]):
        base = settle_base(base, None, told, all_asked=True)
        assert base is not None
        used = [own for own in told if not difference(base, own, name_only=False)]
        assert used
    assert base is not None
    assert base.name == "new"


def test_the_operators_word_wins_and_then_the_name_alone_counts() -> None:
    assert settled(A, A, A, named="b") == "b"
    assert settled(None, None, named="b", all_asked=False) == "b"
    assert settled(B, A, named="b") == "b"
    elsewhere = replace(A, root="/data/tuned")
    assert difference(A, elsewhere, name_only=False)
    assert not difference(A, elsewhere, name_only=True)


@pytest.mark.parametrize(
    "root",
    [
        "",
        "/models/llama",
        "/other/place/llama/",
        "org/llama",
        "LLAMA",
        "/root/.cache/huggingface/hub/models--org--llama/snapshots/0123456789abcdef",
    ],
)
def test_the_same_model_has_another_path_on_another_machine(root: str) -> None:
    assert difference(A, replace(A, root=root), name_only=False) == ""


def test_what_differs_is_said() -> None:
    assert "`b`" in difference(A, B, name_only=False)
    assert "`a`" in difference(A, B, name_only=False)
    reason = difference(A, replace(A, root="/models/tuned"), name_only=False)
    assert "/models/tuned" in reason
    assert "--base-name a" in reason


def test_callers_are_told_all_names_and_the_shortest_length() -> None:
    second = replace(A, names=("a", "gpt-4o-mini"), max_model_len=2048, root="org/llama")
    base = settle_base(None, None, [A, second, B, None], all_asked=True)
    assert base == Base(name="a", names=("a", "gpt-4o-mini"), max_model_len=2048, root="/models/llama")
    table = RouteTable(
        base=base,
        engines=(EngineState(url="e"),),
        routes={"gpt-4o-mini": Route(alias="gpt-4o-mini", split=Split("x"), salt="")},
    )
    caller = Principal(id="k", role=Role.APP)
    assert usable_models(table, caller) == ["a", "gpt-4o-mini"]
    assert find_target(table, "gpt-4o-mini", caller).split == Split("x")  # an alias comes first
    table = replace(table, routes={})
    target = find_target(table, "gpt-4o-mini", caller)
    assert (target.alias, target.split, target.reason) == ("gpt-4o-mini", Split("a"), "base")
    assert [card["id"] for card in json.loads(list_models(table, caller))["data"]] == ["a", "gpt-4o-mini"]


def models(*cards: Any) -> bytes:
    return json.dumps({"data": cards}).encode()


def test_a_list_of_models_is_read_with_all_names_of_the_base() -> None:
    listed = read_models(
        models({"id": "a", "root": "/m", "max_model_len": 9, "created": 5}, {"id": "x", "parent": "a"}, {"id": "b"})
    )
    assert listed.base == Base(name="a", names=("a", "b"), root="/m", max_model_len=9, created=5)
    assert listed.adapters == {"x"}
    assert read_models(models({"id": "x", "parent": "a"})).base is None


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"data":' + b"[" * 100_000,
        b"",
        b"null",
        b"[]",
        b"7",
        b'"data"',
        b"{}",
        b'{"data":null}',
        b'{"data":{"id":"a"}}',
        b'{"data":"abc"}',
        b'{"data":[null]}',
        b'{"data":[["id"]]}',
        b'{"data":[{}]}',
        b'{"data":[{"id":7}]}',
        b'{"data":[{"id":""}]}',
        b'{"data":[{"id":"a\\r\\nx-evil: 1"}]}',
        b'{"data":[{"id":"\\ud800"}]}',
        b'{"data":[{"id":"\\u001b[31m"}]}',
        b'{"data":[{"id":"a"},{"id":null}]}',
        b'{"data":[{"id":"' + b"a" * 1000 + b'"}]}',
        b"\xff\xfe",
        b"9" * 10_000,
    ],
)
def test_what_is_no_list_of_models_is_told_in_a_few_words_and_nothing_else_is_raised(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is not|it lists") as caught:
        read_models(body)
    assert len(str(caught.value)) < 60


@pytest.mark.parametrize("value", [-1, 0, 1.5, 1e400, "9", [], {}, True, 10**30, None])
def test_figures_that_are_none_are_left_out(value: Any) -> None:
    base = read_models(models({"id": "a", "created": value, "max_model_len": value, "root": value})).base
    assert base is not None
    assert (base.created, base.max_model_len) == (0, None)
    assert base.root == (value if isinstance(value, str) else "")
