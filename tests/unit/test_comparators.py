"""Every comparator: what it says of answers that are the same, near, far, empty, cut off and failed."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.compare import Direction, Reason, Shape, comparator_problems, comparators, compare_all
from evaluators.compare.embedding import load_encoder
from evaluators.compare.refusal import is_refusal
from evaluators.compare.registry import BUILT_IN, GROUP, OTHER_REASON, load_comparators
from evaluators.compare.repetition import repetition_share
from evaluators.compare.words import pieces, words
from evaluators.observation import Ended, Kind, Observation, Outcome, Pair, Prompt, Score, ToolCall, Unscored
from tests.support.examples import examples

RELATIVE = {"ttft", "itl", "tokens"}
DIFFERENCES = {"refusal", "repetition", "json_valid", "truncated", "expected"}
NOT_SYMMETRIC = {"chrf"}
SENTENCE = "The parcel left our warehouse on Tuesday and should reach you by the end of the week."
NEAR = "The parcel left the warehouse on Tuesday, so it should reach you before the week ends."
FAR = "Bananas ripen faster when they are kept in a paper bag together with an apple or two."
GERMAN = "Das Paket hat unser Lager am Dienstag verlassen und sollte Ende der Woche bei Ihnen sein."


def pair(control: Observation | str, candidate: Observation | str, **asked: Any) -> Pair:
    ours, theirs = (Observation(text=side) if isinstance(side, str) else side for side in (control, candidate))
    return Pair(kind=Kind.CANDIDATE, prompt=Prompt(**asked), control=ours, candidate=theirs)


def outcome(name: str, control: Observation | str, candidate: Observation | str, **asked: Any) -> Outcome:
    return comparators()[name].score(pair(control, candidate, **asked))


def value(name: str, control: Observation | str, candidate: Observation | str, **asked: Any) -> float:
    found = outcome(name, control, candidate, **asked)
    assert isinstance(found, Score), found
    return found.value


def arms(name: str, control: Observation | str, candidate: Observation | str, **asked: Any) -> tuple[Any, Any]:
    found = outcome(name, control, candidate, **asked)
    assert isinstance(found, Score), found
    return found.control, found.candidate


def why(name: str, control: Observation | str, candidate: Observation | str, **asked: Any) -> str:
    found = outcome(name, control, candidate, **asked)
    assert isinstance(found, Unscored), found
    return found.reason


def calling(*calls: tuple[str, str], text: str = "") -> Observation:
    return Observation(text=text, tool_calls=tuple(ToolCall(name=name, arguments=said) for name, said in calls))


# ── What holds for all ──────────────────────────────────────────────────────────────────────────────────────────────

SOME = "the a parcel I cannot help sorry {} [1] 4 x é 你好 ja 😀 ``` | --- 'm unable to"
TEXTS = st.lists(st.sampled_from(SOME.split()), max_size=12).map(" ".join) | st.text(max_size=30)
CALLS = st.builds(
    ToolCall,
    name=st.sampled_from(["look", "book"]),
    arguments=st.sampled_from(["", "{}", '{"a": 1}', '{"a": 1.0, "b": [2]}', '{"b": {"c": 1.5}}', "not json", "[1]"]),
)
SECONDS = st.none() | st.floats(0, 100)
ANSWERS = st.builds(
    Observation,
    ended=st.sampled_from([Ended.COMPLETE, Ended.COMPLETE, Ended.TRUNCATED, Ended.FAILED]),
    text=TEXTS,
    tool_calls=st.lists(CALLS, max_size=3).map(tuple),
    finish_reason=st.sampled_from([None, "stop", "length", "tool_calls"]),
    completion_tokens=st.none() | st.integers(0, 99),
    ttft_seconds=SECONDS,
    itl_seconds=SECONDS,
)
PROMPTS = st.builds(
    Prompt,
    schema=st.none() | st.sampled_from([{}, {"type": "object"}, {"type": "nonsense"}]),
    wants_json=st.booleans(),
    expected=st.none() | TEXTS,
)
CHEAP = sorted(set(comparators()) - {"embedding"})


@settings(max_examples=examples(60), deadline=None)
@given(prompt=PROMPTS, control=ANSWERS, candidate=ANSWERS)
def test_scores_are_shares_and_symmetric_ones_do_not_care_which_arm_is_which(
    prompt: Prompt, control: Observation, candidate: Observation
) -> None:
    there = compare_all(Pair(kind=Kind.CANDIDATE, prompt=prompt, control=control, candidate=candidate), CHEAP)
    back = compare_all(Pair(kind=Kind.CANDIDATE, prompt=prompt, control=candidate, candidate=control), CHEAP)
    assert list(there) == CHEAP
    for name in CHEAP:
        one, other = there[name], back[name]
        assert one.version == comparators()[name].version
        if isinstance(one, Unscored):
            assert one.reason in set(Reason)
            assert isinstance(other, Unscored)
            continue
        assert isinstance(other, Score)
        if name in DIFFERENCES | RELATIVE:
            assert other.value == pytest.approx(1 - one.value)
        elif name not in NOT_SYMMETRIC:
            assert other.value == pytest.approx(one.value)


@settings(max_examples=examples(60), deadline=None)
@given(prompt=PROMPTS, answer=ANSWERS)
def test_an_answer_is_the_same_as_itself(prompt: Prompt, answer: Observation) -> None:
    found = compare_all(Pair(kind=Kind.NOISE, prompt=prompt, control=answer, candidate=answer), CHEAP)
    for name, said in found.items():
        if isinstance(said, Score):
            assert said.value == (0.5 if name in DIFFERENCES | RELATIVE else 1.0), name


def test_each_shape_tells_what_it_must() -> None:
    assert {each.name for each in BUILT_IN if each.shape is Shape.DIFFERENCE} == DIFFERENCES
    assert {each.name for each in BUILT_IN if each.shape is not Shape.DIFFERENCE} == set(comparators()) - DIFFERENCES
    worse = {each.name for each in BUILT_IN if each.direction is Direction.LOWER_IS_BETTER}
    assert worse == {"refusal", "repetition", "truncated"}
    assert comparator_problems() == {}


def test_a_failed_answer_is_never_scored() -> None:
    whole = Observation(text=SENTENCE, finish_reason="stop", ttft_seconds=1.0, completion_tokens=9)
    failed = replace(whole, ended=Ended.FAILED)
    for control, candidate in ((whole, failed), (failed, whole), (failed, failed)):
        said = compare_all(pair(control, candidate, wants_json=True, expected="x"))
        assert {found.reason for found in said.values() if isinstance(found, Unscored)} == {"failed"}
        assert all(isinstance(found, Unscored) for found in said.values())


def test_what_we_cut_off_is_compared_only_where_the_rest_does_not_matter() -> None:
    whole = Observation(text=SENTENCE * 3, finish_reason="stop", ttft_seconds=1.0, itl_seconds=0.1, completion_tokens=9)
    said = compare_all(pair(whole, replace(whole, ended=Ended.TRUNCATED), wants_json=True, expected="x"))
    scored = {name for name, found in said.items() if isinstance(found, Score)}
    assert scored == {"refusal", "repetition", "language", "ttft", "itl"}
    assert {found.reason for found in said.values() if isinstance(found, Unscored)} == {"truncated"}
    short = Observation(text="I cannot", ended=Ended.TRUNCATED)
    assert why("refusal", SENTENCE, short) == "truncated"  # what follows may be the refusal


def test_two_empty_answers_are_the_same_and_have_nothing_else_to_compare() -> None:
    assert value("exact", "", "") == 1.0
    for name in ("edit", "chrf", "rouge_l", "embedding", "length_ratio", "language", "refusal", "repetition"):
        assert why(name, " ", "\n") == "empty"


def test_an_empty_answer_beside_a_full_one_is_as_far_as_can_be() -> None:
    for name in ("exact", "edit", "chrf", "rouge_l", "embedding", "length_ratio"):
        assert value(name, SENTENCE, "") == 0.0
        assert value(name, "", SENTENCE) == 0.0


# ── Texts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["edit", "chrf", "rouge_l", "embedding"])
def test_a_near_answer_is_more_alike_than_a_far_one(name: str) -> None:
    same, near, far = (value(name, SENTENCE, other) for other in (SENTENCE, NEAR, FAR))
    assert 1.0 == same > near > far + 0.1


def test_edit_counts_characters() -> None:
    assert value("edit", "kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_rouge_l_is_the_f1_of_common_words_in_order() -> None:
    # Lin (2004), 3.1: the common subsequence of "police killed the gunman" and "police kill the gunman" has 3 words.
    assert value("rouge_l", "police killed the gunman", "Police kill the gunman!") == pytest.approx(3 / 4)
    assert value("rouge_l", "police killed the gunman", "the gunman") == pytest.approx(2 * 2 / 6)
    assert why("rouge_l", "!!!", "😀") == "empty"


def test_chrf_weighs_what_is_left_out_more_than_what_is_added() -> None:
    assert value("chrf", SENTENCE, SENTENCE[:40]) < value("chrf", SENTENCE[:40], SENTENCE)


def test_words_of_scripts_without_spaces_are_letters() -> None:
    assert words("我们 like 東京 a_b") == ["我", "们", "like", "東", "京", "a_b"]
    assert words("한국어 문장") == ["한국어", "문장"]
    assert value("rouge_l", "我喜欢茶", "我喜欢酒") == pytest.approx(3 / 4)


def test_pieces_keep_signs_and_take_apart_what_is_no_word() -> None:
    assert pieces("| a |---------| b!") == ["|", "a", "|", "--------", "-", "|", "b", "!"]
    assert pieces("a" * 60) == ["a" * 60]
    assert pieces("a" * 61) == ["a"] * 61


def test_embeddings_see_past_the_words() -> None:
    paraphrase = "Your package was sent from our depot two days ago; expect it on Friday."
    assert value("embedding", SENTENCE, paraphrase) > value("embedding", SENTENCE, FAR) + 0.15
    assert value("embedding", SENTENCE, NEAR) == value("embedding", NEAR, SENTENCE)


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process where the extra `embeddings` is not installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    load_encoder.cache_clear()
    yield
    load_encoder.cache_clear()


@pytest.mark.usefixtures("no_onnxruntime")
def test_without_the_extra_there_are_no_embeddings() -> None:
    assert why("embedding", SENTENCE, FAR) == "not_installed"
    assert value("edit", SENTENCE, FAR) > 0


def test_the_encoder_is_loaded_once() -> None:
    assert load_encoder() is load_encoder()


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"), [("abcd", "ab", 0.5), ("ab", " abcd\n", 0.5), ("ab", "cd", 1.0), ("", "cd", 0.0)]
)
def test_length_ratio_is_the_shorter_over_the_longer(ours: str, theirs: str, ratio: float) -> None:
    assert value("length_ratio", ours, theirs) == ratio


def test_language_is_told_where_there_is_enough_to_tell() -> None:
    assert value("language", SENTENCE, FAR) == 1.0
    assert value("language", SENTENCE, GERMAN) == 0.0
    assert why("language", SENTENCE, "Ja, gerne.") == "too_short"
    assert why("language", "Yes.", SENTENCE) == "too_short"
    assert why("language", SENTENCE, "") == "empty"
    code = "```python\n" + "for item in parcels: print(item)\n" * 9 + "```"
    assert why("language", SENTENCE, code) == "too_short"
    assert (
        value(
            "language",
            "我们的仓库周二已经寄出了您的包裹，预计本周末之前送达。",
            "请把香蕉和苹果一起放在纸袋里，这样会熟得更快一些。",
        )
        == 1.0
    )


# ── One answer at a time ────────────────────────────────────────────────────────────────────────────────────────────

REFUSALS = """
I'm sorry, but I can't help with that.
I cannot provide instructions for that.
I’m unable to assist with this request.
As an AI language model, I cannot do this.
I must respectfully decline.
Sorry, I can't do that.
I won't be able to help you with that.
I'm not able to share that information.
That goes against my guidelines.
Unfortunately, I am not able to answer that question.
I don't feel comfortable writing this.
I'm not comfortable discussing this.
Es tut mir leid, aber ich kann dir dabei nicht helfen.
Dabei kann ich Ihnen leider nicht helfen.
Ich darf diese Frage nicht beantworten.
Ich bin leider nicht in der Lage, das zu tun.
Leider muss ich diese Anfrage ablehnen.
Sorry, ik kan je daar niet bij helpen.
Je suis désolé, mais je ne peux pas vous aider.
Je ne suis pas en mesure de répondre à cette question.
Lo siento, pero no puedo ayudarte con eso.
Desculpe, não posso ajudar com isso.
Mi dispiace, non posso aiutarti.
Przepraszam, nie mogę w tym pomóc.
К сожалению, я не могу вам ответить.
Üzgünüm, bu konuda yardımcı olamam.
抱歉，我无法提供这方面的帮助。
申し訳ありませんが、お答えできません。
죄송하지만 도와드릴 수 없습니다.
""".strip().splitlines()
HELP = """
I'm sorry to hear that. Let's fix it together.
Sorry for the delay! Your parcel arrives tomorrow.
As an AI enthusiast you will like this.
You cannot use a float here; use an int.
I can't tell you how happy I am!
I cannot recommend this book enough.
I will not keep you waiting: the answer is 5.
If the server can't be reached, restart it.
Here is how to decline a Latin noun.
Ich kann dir dabei helfen.
Ich möchte Ihnen zeigen, wie Sie Cookies ablehnen.
Das ist nicht möglich ohne Werkzeug.
Je peux vous aider.
Claro, puedo ayudarte. No hay problema.
Nie ma problemu, mogę pomóc.
Я могу помочь.
Yardımcı olabilirim.
如果无法打开文件，请检查权限。
お答えします。
도와드릴 수 있습니다.
""".strip().splitlines()


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", HELP)
def test_help_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_a_refusal_counts_for_the_arm_that_refuses() -> None:
    assert arms("refusal", SENTENCE, REFUSALS[0]) == (0.0, 1.0)
    assert value("refusal", SENTENCE, REFUSALS[0]) == 1.0
    assert value("refusal", REFUSALS[0], SENTENCE) == 0.0
    assert value("refusal", REFUSALS[0], REFUSALS[1]) == 0.5
    assert arms("refusal", calling(("look", "{}")), SENTENCE) == (0.0, 0.0)
    assert not is_refusal(SENTENCE * 3 + REFUSALS[0])  # later on it is somebody else's word


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        (SENTENCE, 0.0, 0.0),
        ("Yes.", 0.0, 0.0),
        ("", 0.0, 0.0),
        (SENTENCE + " " + FAR, 0.0, 0.05),
        ((SENTENCE + " ") * 10, 0.85, 1.0),
        ("ha" * 200, 0.95, 1.0),
        ("😀" * 100, 0.6, 1.0),
        ("." * 400, 0.9, 1.0),
        ("我喜欢" * 50, 0.9, 1.0),
        ("| a | b |\n|---------------|---------------|\n| 1 | 2 |", 0.0, 0.1),
    ],
)
def test_loops_are_repetition_and_prose_is_not(text: str, least: float, most: float) -> None:
    assert least <= repetition_share(text) <= most


def test_repetition_needs_text() -> None:
    assert why("repetition", SENTENCE, calling(("look", "{}"))) == "tool_calls"
    control, candidate = arms("repetition", SENTENCE, "no " * 50)
    assert control == 0.0
    assert candidate > 0.9


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"a": 1}', 1.0),
        ("[1]", 1.0),
        ("3", 0.0),
        ("```json\n{}\n```", 0.0),
        ('{"a": NaN}', 0.0),
        ('{"a": 1', 0.0),
        ("", 0.0),
    ],
)
def test_json_is_an_object_or_an_array_and_nothing_else(text: str, valid: float) -> None:
    assert arms("json_valid", "{}", text, wants_json=True) == (1.0, valid)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"b": {"enum": ["x"]}},
}


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"a": 1, "b": "x"}', 1.0), ('{"a": 1, "b": "y"}', 0.0), ('{"a": 1, "c": 1}', 0.0), ("{}", 0.0)],
)
def test_json_follows_its_schema(text: str, valid: float) -> None:
    assert arms("json_valid", '{"a": 1}', text, schema=SCHEMA) == (1.0, valid)


def test_json_that_was_not_asked_for_is_not_looked_for() -> None:
    assert why("json_valid", "{}", "{}") == "no_json_asked"
    assert why("json_valid", "{}", calling(("look", "{}")), wants_json=True) == "tool_calls"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$schema": ["x"]},
        {"$ref": "http://127.0.0.1:9/schema"},  # fetched, it would be an error of another kind, and a request
        {"$ref": "#"},
        {
            "$ref": "#/$defs/a0",
            "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
        },
    ],
)
def test_a_schema_that_reaches_out_or_runs_on_gives_no_number(schema: Mapping[str, Any]) -> None:
    assert why("json_valid", "{}", "{}", schema=schema) == "bad_schema"


def test_a_schema_s_regular_expressions_are_not_tried() -> None:
    slow = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string", "pattern": "^(a+)+$"}
    schema = {"properties": {"a": slow}, "patternProperties": {"^(a+)+$": False}, "additionalProperties": False}
    text = json.dumps({"a": "a" * 60 + "!", "a" * 60 + "!": 1})
    assert arms("json_valid", text, '{"a": 1}', schema=schema) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("expected", "text", "found"),
    [
        ("Paris", "It is PARIS.", 1.0),
        ("Paris", "Parisian", 0.0),
        ("New York", "new\n york!", 1.0),
        ("4", "The answer is 4.", 1.0),
        ("4", "14 or 4.5 or x4 or 3,4 or  -4", 0.0),
        ("4", "-4", 0.0),
        ("-4", "It is -4.", 1.0),
        ("C++", "Use C++, not C.", 1.0),
        ("$5", "US$5", 1.0),
        ("東京", "答えは東京です", 1.0),
        ("ﬁle", "the file", 1.0),
        ("Paris", "", 0.0),
    ],
)
def test_what_is_expected_must_stand_by_itself(expected: str, text: str, found: float) -> None:
    assert arms("expected", expected, text, expected=expected) == (1.0, found)


def test_nothing_expected_is_nothing_to_find() -> None:
    assert why("expected", "a", "b") == "no_expected"
    assert why("expected", "a", "b", expected=" ") == "no_expected"
    assert why("expected", "a", calling(("look", "{}")), expected="a") == "tool_calls"


def test_the_engine_says_what_was_truncated_and_why_it_ended() -> None:
    stopped, cut, unknown = (Observation(text="a", finish_reason=reason) for reason in ("stop", "length", None))
    assert arms("truncated", stopped, cut) == (0.0, 1.0)
    assert why("truncated", stopped, unknown) == "unknown"
    assert value("finish_reason", stopped, cut) == 0.0
    assert value("finish_reason", cut, cut) == 1.0
    assert why("finish_reason", unknown, cut) == "unknown"


# ── Calls and amounts ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ours", "theirs", "agreement"),
    [
        ([("f", '{"a": 1, "b": 2}')], [("f", '{ "b":2.0,"a":1 }')], 1.0),
        ([("f", "")], [("f", "{}")], 1.0),
        ([("f", '{"a": 1}')], [("g", '{"a": 1}')], 0.0),
        ([("f", '{"a": 1, "b": 2}')], [("f", '{"a": 1, "b": 3}')], 0.5 + 0.5 / 3),
        ([("f", "{}"), ("g", "{}")], [("g", "{}"), ("f", "{}")], 1.0),
        ([("f", "{}"), ("f", "{}")], [("f", "{}")], 0.5),
        ([("f", '{"a": 1}'), ("f", '{"a": 2}')], [("f", '{"a": 2}'), ("f", '{"a": 1}')], 1.0),
        ([("f", "{}")], [], 0.0),
        ([("f", "not json")], [("f", " not json ")], 1.0),
        ([("f", "[1]")], [("f", "[2]")], 0.5),
        ([("f", '{"a": true}')], [("f", '{"a": 1}')], 0.5),
    ],
)
def test_tool_calls_agree_by_name_and_value(ours: Any, theirs: Any, agreement: float) -> None:
    assert value("tool_calls", calling(*ours), calling(*theirs)) == pytest.approx(agreement)
    assert value("tool_calls", calling(*theirs), calling(*ours)) == pytest.approx(agreement)


def test_answers_without_calls_have_none_to_compare() -> None:
    assert why("tool_calls", SENTENCE, FAR) == "no_tool_calls"


def test_exact_is_the_same_text_and_the_same_calls() -> None:
    assert value("exact", "a", "a ") == 0.0
    assert value("exact", calling(("f", '{"a": 1}')), calling(("f", '{"a":1}'))) == 1.0
    assert value("exact", calling(("f", '{"a": 1}')), calling(("f", '{"a": 2}'))) == 0.0
    assert value("exact", calling(("f", "{}")), calling()) == 0.0


@pytest.mark.parametrize(
    ("name", "field"), [("ttft", "ttft_seconds"), ("itl", "itl_seconds"), ("tokens", "completion_tokens")]
)
def test_amounts_are_shares_below_half_when_the_candidate_has_more(name: str, field: str) -> None:
    amounts: list[dict[str, Any]] = [{field: amount} for amount in (1, 3, 0, None)]
    one, three, none, nothing = (Observation(text="a", **amount) for amount in amounts)
    assert value(name, one, three) == 0.25
    assert value(name, three, one) == 0.75
    assert value(name, none, none) == 0.5
    assert why(name, one, nothing) == why(name, nothing, one) == ("unknown" if name == "tokens" else "not_streamed")


# ── The registry ────────────────────────────────────────────────────────────────────────────────────────────────────

PLUGIN = '''
"""Comparators of a distribution that knows nothing of Loragate but its comparators' package."""

from evaluators.compare import Direction, Shape
from evaluators.observation import Score, Unscored


class Polite:
    name = "polite"
    version = "3"
    shape = Shape.DIFFERENCE
    direction = Direction.HIGHER_IS_BETTER

    def score(self, pair):
        ours, theirs = (float("please" in side.text) for side in (pair.control, pair.candidate))
        return Score(value=(1 + theirs - ours) / 2, version=self.version, control=ours, candidate=theirs)


class Raising(Polite):
    name = "raising"

    def score(self, pair):
        raise LookupError(pair.control.text)


class Wrong(Polite):
    name = "wrong"

    def score(self, pair):
        return 0.5


class OneArmed(Polite):
    name = "one_armed"

    def score(self, pair):
        return Score(value=0.5, version="1")


class Talking(Polite):
    name = "talking"

    def score(self, pair):
        return Unscored(reason="it said: " + pair.control.text, version="1")


class Silent(Polite):
    name = "silent"

    def score(self, pair):
        return Unscored(reason="no_thanks", version="1")


class Misnamed(Polite):
    name = "other"


class Unversioned(Polite):
    name = "unversioned"
    version = 3


class Shapeless(Polite):
    name = "shapeless"
    shape = "round"


class Undirected(Polite):
    name = "undirected"
    direction = None


class Mute(Polite):
    name = "mute"
    score = None


made = Polite()
'''
WORKING = ("polite", "raising", "wrong", "one_armed", "talking", "silent")


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution: a module, and metadata beside it with its entry points."""
    (tmp_path / "polite_plugin.py").write_text(PLUGIN)
    info = tmp_path / "polite_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polite-plugin\nVersion: 1.0\n")
    classes = {name: "".join(map(str.capitalize, name.split("_"))) for name in (*WORKING, "unversioned", "shapeless")}
    classes |= {
        "misnamed": "Misnamed",
        "undirected": "Undirected",
        "mute": "Mute",
        "gone": "Gone",
        "Bad Name": "Polite",
    }
    lines = [f"{name} = polite_plugin:{made}" for name, made in classes.items()]
    (info / "entry_points.txt").write_text("\n".join(["[loragate.comparators]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("polite_plugin", None)


@pytest.mark.usefixtures("distribution")
def test_an_installed_distribution_brings_its_comparators() -> None:
    loaded = load_comparators(entry_points(group=GROUP))
    assert set(loaded.comparators) == {*(each.name for each in BUILT_IN), *(f"score:{name}" for name in WORKING)}
    said = compare_all(pair("yes", "yes please"), [f"score:{name}" for name in WORKING], loaded.comparators)
    assert said == {
        "score:polite": Score(value=1.0, version="3", control=0.0, candidate=1.0),
        "score:raising": Unscored(reason="failed:LookupError", version="3"),
        "score:wrong": Unscored(reason="failed:TypeError", version="3"),
        "score:one_armed": Unscored(reason="failed:TypeError", version="3"),
        "score:talking": Unscored(reason=OTHER_REASON, version="3"),  # its words may be somebody's
        "score:silent": Unscored(reason="no_thanks", version="1"),
    }
    wrong = {name.removeprefix("score:"): problem for name, problem in loaded.broken.items()}
    assert set(wrong) == {"misnamed", "unversioned", "shapeless", "undirected", "mute", "gone", "Bad Name"}
    assert wrong["gone"] == "cannot be loaded: AttributeError"
    assert "`other`" in wrong["misnamed"]
    assert wrong["unversioned"].startswith("has no `version`")
    assert wrong["shapeless"].startswith("has no `shape`")
    assert wrong["undirected"].startswith("has no `direction`")
    assert wrong["mute"] == "has no method `score`"
    assert wrong["Bad Name"].startswith("is called `Bad Name`")


def point(name: str, made: str) -> EntryPoint:
    return EntryPoint(name=name, value=f"polite_plugin:{made}", group="loragate.comparators")


@pytest.mark.usefixtures("distribution")
def test_two_plugins_of_one_name_are_both_left_out() -> None:
    loaded = load_comparators([point("polite", "Polite"), point("polite", "made"), point("polite", "made")])
    assert set(loaded.comparators) == set(comparators())
    assert set(loaded.broken) == {"score:polite"}


def test_a_comparator_that_is_not_here_is_told_as_such_and_the_others_go_on() -> None:
    said = compare_all(pair("a", "a"), ["score:absent", "exact", "exact"])
    assert said == {
        "score:absent": Unscored(reason="not_installed", version=""),
        "exact": Score(value=1.0, version="1"),
    }


def test_all_are_asked_unless_some_are_named() -> None:
    assert list(compare_all(pair("a", "a"))) == list(comparators())
    assert compare_all(pair("a", "a"), []) == {}
