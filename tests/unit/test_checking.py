"""The checks of one engine, against an engine in memory that says log-probabilities and can be wrong in many ways."""

import asyncio
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapters.catalog import Entry
from adapters.checking import READINGS, FingerprintChecker, base_subject
from adapters.fingerprint import BASE, PROBES, TOP, Answers, Fingerprint, Top
from adapters.manifest import Manifest
from adapters.ports import HostUnavailable, Unfit
from adapters.prober import NotServed, ProbeRefused
from adapters.reference import AdapterRef

BASE_NAME = "org/base"
HERE, THERE = "http://here", "http://there"


def top_of(weights: str, prompt: str, top: int = TOP) -> Top:
    source = random.Random(f"{weights}\x1f{prompt}")
    return tuple((token, -source.uniform(0.5, 6)) for token in source.sample(range(49_000), top))


def print_of(weights: str, engine: str = "vllm-1") -> Fingerprint:
    """What `weights` answer to the probes, as they are kept."""
    return Fingerprint.of(Answers(engine=engine, tops=tuple(top_of(weights, each) for each in PROBES)))


class Engine:
    """Models to weights: a name for what they answer. `voice` answers for the base while adapters generate."""

    def __init__(self, **weights: str) -> None:
        self.weights = {BASE_NAME: "base", **{v(name): each for name, each in weights.items()}}
        self.fingerprint = "vllm-1"
        self.shift = 0.0
        self.voice: str | None = None
        self.refuses: dict[str, Exception] = {}
        self.answers: list[str] = []  # weights that answer the next questions, before all else
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.can_generate = True
        self.most_at_once = 0  # adapters with a row that ran
        self._generating: list[str] = []

    async def next_tokens(self, model: str, prompts: Sequence[str], *, top: int) -> Answers:
        await asyncio.sleep(0)
        self.asked.append(model)
        weights = self._weights(model)
        if model == BASE_NAME and self.voice is not None and len(set(self._generating)) > 1:
            weights = self.voice
        elif self.answers:
            weights = self.answers.pop(0)
        tops = tuple(
            tuple((token, each + self.shift) for token, each in top_of(weights, prompt, top)) for prompt in prompts
        )
        return Answers(engine=self.fingerprint, tops=tops)

    async def generate(self, model: str, prompt: str, *, tokens: int, started: asyncio.Event) -> None:
        self._weights(model)
        if not self.can_generate:
            raise ProbeRefused("400: too many tokens")
        self._generating.append(model)
        self.most_at_once = max(self.most_at_once, len(set(self._generating) - {BASE_NAME}))
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._generating.remove(model)

    def _weights(self, model: str) -> str:
        if model in self.refuses:
            self.refused.append(model)
            raise self.refuses[model]
        if model not in self.weights:
            raise NotServed(f"404 to a probe of `{model}`")
        return self.weights[model]


class Records:
    """Fingerprints in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Fingerprint]] = {}

    def of(self, subject: str) -> Mapping[str, Fingerprint]:
        return self.kept.get(subject, {})

    async def keep(self, subject: str, engine: str, found: Fingerprint) -> None:
        self.kept.setdefault(subject, {})[engine] = found

    async def forget(self, subject: str, engine: str) -> None:
        self.kept.get(subject, {}).pop(engine, None)


def entry(name: str, **more: Any) -> Entry:
    digest = name.encode().hex().ljust(64, "0")
    manifest = Manifest(digest=digest, base="b", rank=1, alpha=1, target_modules=("q",), size_bytes=1, tensors=1)
    return Entry(ref=AdapterRef(name, digest), manifest=manifest, folder="", source="", created=1, **more)


def v(name: str) -> str:
    return entry(name).ref.version


class Stage:
    """A checker with everything around it."""

    def __init__(self, *, at_once: int = 4, **weights: str) -> None:
        self.engine, self.records, self.verdicts = Engine(**weights), Records(), list[str]()
        self.base: str | None = BASE_NAME
        self.at_once = at_once
        self.checker = self.another()

    def another(self) -> FingerprintChecker:
        """As after a restart of the gateway: only records are left."""
        return FingerprintChecker(
            self.engine,
            HERE,
            base=lambda: self.base,
            records=self.records,
            at_once=self.at_once,
            on_verdict=self.verdicts.append,
        )

    def check(self, name: str, *company: str, **more: Any) -> None:
        asyncio.run(self.checker.check(entry(name, **more), [v(each) for each in company]))

    def inspect(self, *names: str) -> Mapping[str, str]:
        return asyncio.run(self.checker.inspect([entry(name) for name in names]))

    def of_base(self) -> str:
        finding = self.checker.last(BASE)
        assert finding is not None
        return str(finding["verdict"])


def mixed_with(engine: Engine) -> Collection[str]:
    """Which models were asked more often than once since this was last called: alone, and in a batch."""
    found = {model for model in engine.asked if engine.asked.count(model) > 1 and model != BASE_NAME}
    engine.asked.clear()
    return found


def test_a_good_version_is_recorded_and_its_figures_are_told() -> None:
    stage = Stage(legal="legal")
    assert stage.checker.last(v("legal")) is None
    stage.check("legal")
    finding = stage.checker.last(v("legal"))
    assert finding is not None
    assert (finding["verdict"], finding["where"]) == ("ok", "alone")
    assert finding["distance"] > 1 > finding["limit"]
    assert "no record yet" in finding["reason"]
    assert stage.records.kept[v("legal")] == {HERE: print_of("legal")}
    assert stage.verdicts == ["ok", "ok"], "the base's and the version's"
    stage.check("legal")
    assert "from this engine's record" in (stage.checker.last(v("legal")) or {})["reason"]


def test_a_version_that_changes_nothing_is_unfit_unless_it_may() -> None:
    stage = Stage(null="base")
    with pytest.raises(Unfit, match=r"null@.* differ by 0 nats <= limit 0\.001"):
        stage.check("null")
    assert stage.verdicts[-1] == "no_op"
    assert v("null") not in stage.records.kept
    stage.check("null", may_be_null=True)


def test_a_fault_must_show_twice() -> None:
    stage = Stage(legal="legal", support="support")
    stage.check("legal")
    stage.check("support")
    stage.engine.answers = ["base", "support"]  # the base's, then the version's in another's voice
    assert stage.inspect("legal") == {}
    assert stage.engine.answers == []
    assert stage.verdicts[-1] == "ok"


def test_swapped_weights_fail_until_they_are_right_again() -> None:
    stage = Stage(legal="legal", support="support")
    stage.check("legal")
    stage.check("support")
    stage.engine.weights[v("legal")] = "swapped"
    failures = stage.inspect("legal", "support")
    assert list(failures) == [v("legal")]
    assert "nats > limit 0.01 (4 probes, alone) from this engine's record" in failures[v("legal")]
    with pytest.raises(Unfit, match="record"):
        stage.check("legal")
    assert stage.records.kept[v("legal")] == {HERE: print_of("legal")}, "what was wrong is not recorded"
    stage.engine.weights[v("legal")] = "legal"
    stage.check("legal")
    assert stage.inspect("legal", "support") == {}


def test_records_hold_after_a_restart() -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    stage.engine.weights[v("legal")] = "swapped"
    stage.checker = stage.another()
    with pytest.raises(Unfit, match="from this engine's record"):
        stage.check("legal")


def test_other_weights_than_another_engines_are_a_split_brain_and_leave_no_record() -> None:
    stage = Stage(legal="other")
    stage.records.kept[v("legal")] = {THERE: print_of("legal"), HERE: print_of("other")}
    with pytest.raises(Unfit, match=f"from the record of {THERE}"):
        stage.check("legal")
    assert stage.verdicts[-1] == "split_brain"
    assert list(stage.records.kept[v("legal")]) == [THERE]


def test_a_record_of_another_configuration_is_compared_coarsely_once_and_replaced() -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    stage.engine.fingerprint, stage.engine.shift = "vllm-2", 0.3
    stage.checker.reset()
    stage.check("legal")
    assert stage.records.kept[v("legal")][HERE].engine == "vllm-2"
    stage.engine.shift = 0.6
    assert list(stage.inspect("legal")) == [v("legal")]


def test_a_record_of_other_probes_says_nothing_and_is_replaced() -> None:
    stage = Stage(legal="legal")
    stage.records.kept[v("legal")] = {HERE: replace(print_of("other"), probes_version=0)}
    stage.check("legal")
    assert stage.records.kept[v("legal")] == {HERE: print_of("legal")}


def test_a_version_that_was_removed_while_it_was_inspected_leaves_no_record() -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    del stage.records.kept[v("legal")]
    assert stage.inspect("legal") == {}
    assert v("legal") not in stage.records.kept


# Beside others


def test_a_new_version_is_asked_beside_one_other_and_a_known_one_alone() -> None:
    stage = Stage(a="a", b="b", c="c")
    stage.check("a", "b", "c")
    assert mixed_with(stage.engine) == {v("a")}
    assert stage.engine.asked == []
    stage.check("a", "b", "c")
    assert mixed_with(stage.engine) == set(), "it was asked alone"
    stage.checker.reset()
    stage.check("a", "b", "c")
    assert mixed_with(stage.engine) == {v("a")}, "the engine is another"


def test_an_engine_that_takes_one_adapter_into_a_batch_is_asked_for_one() -> None:
    stage = Stage(at_once=1, a="a", b="b")
    stage.check("a", "b")
    assert v("b") not in stage.engine.asked
    assert stage.inspect("a", "b") == {}


def test_company_that_was_taken_off_meanwhile_is_left_out() -> None:
    stage = Stage(a="a")
    stage.check("a", "gone")
    assert v("a") in stage.records.kept


@pytest.mark.parametrize("company", [(), ("b",)])
def test_a_version_that_cannot_be_asked_beside_others_is_refused(company: tuple[str, ...]) -> None:
    stage = Stage(a="a", b="b")
    stage.engine.can_generate = False
    with pytest.raises(Unfit, match=r"400: too many tokens \(or serve unchecked, with adapters\.fingerprints off\)"):
        stage.check("a", *company)
    assert v("a") not in stage.records.kept


def test_an_engine_that_cannot_mix_is_found_and_no_version_slips_in_alone_afterwards() -> None:
    stage = Stage(a="a", b="b")
    stage.check("a")
    stage.check("b")
    stage.engine.voice = "b"
    failures = stage.inspect("a", "b")
    assert set(failures) == {v("a"), v("b")}
    assert all("LORAGATE_CPU_LORA_CURE" in reason for reason in failures.values())
    with pytest.raises(Unfit, match="cannot serve the base and adapters together"):
        stage.check("a")
    stage.engine.voice = None
    mixed_with(stage.engine)
    for _ in range(2):
        stage.check("a")
        assert mixed_with(stage.engine) == {v("a")}, "it may fail again at any time"


def test_an_engine_that_cannot_mix_lets_nothing_in_while_an_adapters_row_answers_for_its_base() -> None:
    stage = Stage(one="a", two="b")
    stage.check("one")
    stage.engine.voice = "b"
    assert stage.inspect("one")
    stage.engine.weights[BASE_NAME] = "b"  # a row of `two` runs on: wrong alone, too, it agrees with itself
    stage.inspect()
    with pytest.raises(Unfit, match=r"the base: .* alone\) from this engine's record$"):
        stage.check("one")
    stage.engine.weights[BASE_NAME], stage.engine.voice = "base", None
    stage.check("one")


def test_an_engine_that_cannot_mix_takes_nothing_in() -> None:
    stage = Stage(a="a")
    stage.engine.voice = "a"
    with pytest.raises(Unfit, match="LORAGATE_CPU_LORA_CURE"):
        stage.check("a")
    assert stage.of_base() == "ok", "alone, it answers rightly"


# Inspections


def test_more_versions_than_fit_a_batch_are_all_inspected() -> None:
    names = [f"n{number}" for number in range(7)]
    stage = Stage(at_once=3, **{name: name for name in names})
    for name in names:
        stage.check(name)
    stage.engine.weights[v("n6")] = "swapped"
    assert list(stage.inspect(*names)) == [v("n6")]


def test_a_version_that_is_loaded_meanwhile_waits_for_an_inspection_that_fills_the_batch() -> None:
    names = ("a", "b", "c", "d", "e")
    stage = Stage(at_once=4, **{name: name for name in names})
    for name in names[:4]:
        stage.check(name)
    stage.checker.reset()

    async def both() -> None:
        inspection = asyncio.create_task(stage.checker.inspect([entry(name) for name in names[:4]]))
        while stage.engine.most_at_once < 4:
            await asyncio.sleep(0)
        await stage.checker.check(entry("e"), [v("a")])
        assert await inspection == {}

    stage.engine.most_at_once = 0
    asyncio.run(both())
    assert stage.engine.most_at_once == 4


def test_a_version_that_was_taken_off_meanwhile_hides_no_fault() -> None:
    stage = Stage(gone="gone", legal="legal")
    stage.check("gone")
    stage.check("legal")
    del stage.engine.weights[v("gone")]
    stage.engine.weights[v("legal")] = "swapped"
    assert list(stage.inspect("gone", "legal")) == [v("legal")]


def test_a_version_for_which_the_engine_refuses_probes_fails_and_the_others_stay() -> None:
    stage = Stage(broken="broken", legal="legal")
    stage.check("broken")
    stage.check("legal")
    stage.engine.refuses[v("broken")] = ProbeRefused("500: NaN is not JSON")
    assert stage.inspect("broken", "legal") == {v("broken"): "500: NaN is not JSON"}
    assert stage.engine.refused.count(v("broken")) == 1 + READINGS, "in the batch, and then by itself"


def test_an_engine_that_refuses_to_probe_its_base_condemns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    stage.engine.refuses[BASE_NAME] = ProbeRefused("no log-probabilities")
    assert stage.inspect("legal") == {}
    assert "fingerprints cannot be checked: no log-probabilities" in caplog.text


def test_an_engine_that_has_not_told_its_base_cannot_be_asked() -> None:
    stage = Stage(legal="legal")
    stage.base = None
    with pytest.raises(HostUnavailable, match="not told its base"):
        stage.check("legal")


# The base itself


def test_a_base_that_has_changed_is_reported_once_and_condemns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    stage.engine.weights[BASE_NAME] = "another"
    with caplog.at_level(logging.ERROR):
        assert stage.inspect("legal") == {}
        assert stage.inspect("legal") == {}
    (report,) = caplog.records
    assert "base org/base" in report.getMessage()
    assert "mismatch: the base: top log-probabilities differ" in report.getMessage()
    assert stage.of_base() == "mismatch"
    assert stage.verdicts.count("mismatch") == 2
    assert stage.records.kept[base_subject(BASE_NAME)] == {HERE: print_of("base")}


def test_a_version_that_fails_on_a_base_that_has_changed_says_so() -> None:
    stage = Stage(legal="legal")
    stage.check("legal")
    stage.engine.weights |= {BASE_NAME: "another", v("legal"): "legal on another"}
    reason = stage.inspect("legal")[v("legal")]
    assert reason.startswith(f"{v('legal')}: top log-probabilities differ")
    assert "; the base: top log-probabilities differ" in reason


def test_another_base_than_another_engines_is_reported_after_a_restart_too(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.records.kept[base_subject(BASE_NAME)] = {THERE: print_of("another")}
    assert stage.inspect() == {}
    assert stage.of_base() == "split_brain"
    stage.checker = stage.another()
    assert stage.inspect() == {}
    assert stage.of_base() == "split_brain"
    assert list(stage.records.kept[base_subject(BASE_NAME)]) == [THERE]
    assert len(caplog.records) == 2


def test_one_odd_answer_of_the_base_is_no_report() -> None:
    stage = Stage()
    stage.inspect()
    stage.engine.answers = ["odd"]
    stage.inspect()
    assert stage.engine.answers == []
    assert stage.verdicts == ["ok", "ok"]


def test_a_base_of_another_name_is_another_base() -> None:
    stage = Stage()
    stage.inspect()
    stage.base, stage.engine.weights = "new", {"new": "another"}
    stage.checker.reset()
    stage.inspect()
    assert stage.of_base() == "ok"
    assert stage.records.kept == {
        base_subject(BASE_NAME): {HERE: print_of("base")},
        base_subject("new"): {HERE: print_of("another")},
    }


def test_an_engine_that_contradicts_itself_leaves_no_record_of_its_base() -> None:
    stage = Stage()
    stage.engine.answers = ["base", "odd"]  # while it is calibrated
    stage.inspect()
    assert stage.records.kept == {}
