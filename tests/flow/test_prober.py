"""Probes over a real socket, answered by the fake engine: what is asked, and what is found."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from adapters.fingerprint import (
    PROBES,
    FingerprintVerdict,
    ProbeReading,
    Records,
    Tolerance,
    Where,
    distance,
    judge,
    judge_base,
)
from adapters.ports import HostUnavailable
from adapters.prober import ProbeRefused, calibrate, fingerprint, fingerprint_together
from gateway.serve.adapter_host import VllmHost
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import tensors_of, write_adapter

T = TypeVar("T")
NO_RECORDS = Records()


def ask(engine: FakeEngine, work: Callable[[VllmHost], Awaitable[T]]) -> T:
    """Do `work` with a host for `engine`."""

    async def with_host() -> T:
        host = VllmHost(engine.url)
        try:
            return await work(host)
        finally:
            host.close()

    return asyncio.run(with_host())


def load(engine: FakeEngine, name: str, folder: Path) -> None:
    ask(engine, lambda host: host.load(name, str(folder)))


def reading(engine: FakeEngine, model: str) -> ProbeReading:
    """What `model` answers alone and beside the base and all adapters."""

    async def both(host: VllmHost) -> ProbeReading:
        alone = await fingerprint(host, model)  # first: rows of the mixed batch may still run when it is over
        together = await fingerprint_together(host, engine.model, list(engine.adapters))
        return ProbeReading(alone=alone, mixed=together[model])

    return ask(engine, both)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    null = {
        name: (dtype, shape, bytes(64) if "lora_B" in name else each)
        for name, (dtype, shape, each) in tensors_of(3).items()
    }
    return {
        "legal": write_adapter(tmp_path / "legal", 1),
        "support": write_adapter(tmp_path / "support", 2),
        "null": write_adapter(tmp_path / "null", tensors=null),
    }


def test_all_probes_of_a_model_are_one_request() -> None:
    with FakeEngine() as engine:
        print_ = ask(engine, lambda host: fingerprint(host, "base"))
        (request,) = engine.generations
    body = msgspec.json.decode(request.body)
    assert body["prompt"] == list(PROBES)
    assert (body["max_tokens"], body["temperature"], body["logprobs"]) == (1, 0, 20)
    assert [len(top) for top in print_.tokens] == [20] * len(PROBES)
    assert print_.engine == "vllm-0.32.0-fake0000"


def test_the_same_folder_is_the_same_fingerprint_on_two_engines(folders: dict[str, Path]) -> None:
    with FakeEngine() as one, FakeEngine() as two:
        for engine in (one, two):
            load(engine, "v", folders["legal"])
        assert distance(reading(one, "v").alone, reading(two, "v").alone) == 0


def test_other_weights_under_the_same_name_are_a_split_brain(folders: dict[str, Path]) -> None:
    with FakeEngine() as one, FakeEngine() as two:
        load(one, "v", folders["legal"])
        load(two, "v", folders["support"])
        records = Records(own="two", by_engine={"one": reading(one, "v").alone})
        finding = judge("v", reading(two, "v"), reading(two, "base"), records, Tolerance())
    assert finding.verdict is FingerprintVerdict.SPLIT_BRAIN


def test_an_adapter_whose_b_is_zero_is_a_no_op(folders: dict[str, Path]) -> None:
    with FakeEngine() as engine:
        load(engine, "v", folders["null"])
        finding = judge("v", reading(engine, "v"), reading(engine, "base"), NO_RECORDS, Tolerance())
    assert finding.verdict is FingerprintVerdict.NO_OP


def test_a_folder_that_was_swapped_before_the_engine_read_it_again_is_a_mismatch(folders: dict[str, Path]) -> None:
    with FakeEngine(max_cpu_loras=1) as engine:
        load(engine, "v", folders["legal"])
        records = Records(own="a", by_engine={"a": reading(engine, "v").alone})
        write_adapter(folders["legal"], 9)
        unread = judge("v", reading(engine, "v"), reading(engine, "base"), records, Tolerance())
        load(engine, "other", folders["support"])  # pushes `v` out of memory
        finding = judge("v", reading(engine, "v"), reading(engine, "base"), records, Tolerance())
        assert engine.loads >= 3
    assert unread.is_ok
    assert finding.verdict is FingerprintVerdict.MISMATCH


def test_stock_vllms_fault_shows_in_the_mixed_batch_and_not_alone(folders: dict[str, Path]) -> None:
    with FakeEngine(mixes_adapters=True, cadence_ms=50) as engine:
        load(engine, "legal", folders["legal"])
        load(engine, "support", folders["support"])
        base, legal = reading(engine, "base"), reading(engine, "legal")
    finding = judge_base(base, NO_RECORDS, Tolerance())
    assert (finding.verdict, finding.where) == (FingerprintVerdict.MISMATCH, Where.MIXED)
    assert judge("legal", legal, base, NO_RECORDS, Tolerance()).is_ok


def test_without_the_fault_a_mixed_batch_answers_as_each_alone(folders: dict[str, Path]) -> None:
    with FakeEngine(cadence_ms=50) as engine:
        load(engine, "legal", folders["legal"])
        base = reading(engine, "base")
    assert judge_base(base, NO_RECORDS, Tolerance()).is_ok


def test_rows_that_only_keep_the_batch_mixed_are_stopped(folders: dict[str, Path]) -> None:
    with FakeEngine(cadence_ms=50) as engine:
        load(engine, "legal", folders["legal"])
        ask(engine, lambda host: fingerprint_together(host, "base", ["legal"]))
        assert engine.wait_for(lambda engine: engine.aborted == 2 and engine.running == 0), "not one came to its end"


def test_a_noisy_engine_gets_wider_limits_and_no_false_alarm(folders: dict[str, Path]) -> None:
    with FakeEngine(jitter=0.02) as engine:
        load(engine, "v", folders["legal"])
        tolerance = ask(engine, lambda host: calibrate(host, "base"))
        records = Records(own="a", by_engine={"a": reading(engine, "v").alone})
        found = [judge("v", reading(engine, "v"), reading(engine, "base"), records, tolerance) for _ in range(10)]
    assert 0.02 < tolerance.noise <= 0.04
    assert tolerance.readings == 10
    assert all(finding.is_ok for finding in found)


def test_a_model_that_the_engine_does_not_serve_is_a_refusal_that_names_it() -> None:
    with FakeEngine() as engine:
        with pytest.raises(ProbeRefused, match="404 to a probe of `gone`"):
            ask(engine, lambda host: fingerprint(host, "gone"))
        with pytest.raises(ProbeRefused, match="`gone`"):
            ask(engine, lambda host: fingerprint_together(host, "base", ["gone"]))


def test_an_engine_that_is_busy_or_away_is_unavailable() -> None:
    with FakeEngine() as engine:
        engine.fail_next(1, 503)
        with pytest.raises(HostUnavailable, match="503"):
            ask(engine, lambda host: fingerprint(host, "base"))
        engine.kill()
        with pytest.raises(HostUnavailable):
            ask(engine, lambda host: fingerprint_together(host, "base", []))
        with pytest.raises(HostUnavailable):
            ask(engine, lambda host: calibrate(host, "base"))


def test_an_answer_without_log_probabilities_is_a_refusal_that_says_what_to_do() -> None:
    with FakeEngine(malformed=True) as engine, pytest.raises(ProbeRefused, match="--max-logprobs 20"):
        ask(engine, lambda host: fingerprint(host, "base"))


def test_a_slow_load_is_listed_when_it_is_done(folders: dict[str, Path]) -> None:
    with FakeEngine(held_loads=True) as engine:

        async def load_and_look(host: VllmHost) -> tuple[set[str], set[str]]:
            loading = asyncio.ensure_future(host.load("v", str(folders["legal"])))
            await asyncio.to_thread(engine.wait_for, lambda engine: engine.held > 0)
            early = set(await host.adapter_names())
            engine.release()
            await loading
            return early, set(await host.adapter_names())

        assert ask(engine, load_and_look) == (set(), {"v"})
