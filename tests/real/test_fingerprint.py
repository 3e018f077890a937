"""Fingerprints of real vLLM: faults that it serves without a word are found, and health is not called a fault."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from adapters.fingerprint import FingerprintFinding, FingerprintVerdict, ProbeReading, Records, Where, judge, judge_base
from adapters.prober import calibrate, fingerprint, fingerprint_together
from gateway.serve.adapter_host import VllmHost
from gateway.serve.vllm_cpu import SWITCH
from tests.support.tiny_adapters import random_adapter
from tests.support.vllm_engines import running_vllm

pytestmark = pytest.mark.real

WEIGHTS = "adapter_model.safetensors"
TRIES = 20


@pytest.fixture(scope="module")
def stock(tiny_base_path: Path) -> Iterator[Path]:
    """The unix socket of a vLLM without our cure: right alone, wrong for the base beside adapters."""
    with running_vllm(tiny_base_path, environment={SWITCH: "0"}) as uds:
        yield uds


@asynccontextmanager
async def holding(uds: Path, adapters: Mapping[str, Path]) -> AsyncIterator[VllmHost]:
    """A host whose engine holds `adapters` for the time being."""
    host = VllmHost(f"unix://{uds}")
    try:
        for name, folder in adapters.items():
            await host.load(name, str(folder))
        yield host
    finally:
        for name in adapters:
            await host.unload(name)
        host.close()


async def check(host: VllmHost, version: str, records: Records) -> FingerprintFinding:
    """Probe a version, alone and beside the base, and judge it."""
    base = (await host.base()).name
    together = await fingerprint_together(host, base, [version])
    now = ProbeReading(alone=await fingerprint(host, version), mixed=together[version])
    then = ProbeReading(alone=await fingerprint(host, base), mixed=together[base])
    return judge(version, now, then, records, await calibrate(host, base))


def check_once(uds: Path, folder: Path) -> FingerprintFinding:
    """Load, check and unload a version that has no record."""

    async def work() -> FingerprintFinding:
        async with holding(uds, {"checked": folder}) as host:
            return await check(host, "checked", Records())

    return asyncio.run(work())


def renamed(folder: Path, old: str, new: str) -> Path:
    """Put the adapter's tensors under other modules."""
    tensors = load_file(folder / WEIGHTS)
    save_file({name.replace(old, new): each for name, each in tensors.items()}, folder / WEIGHTS)
    return folder


def test_an_adapter_with_weights_is_ok_however_weak(engine: Path, tiny_base_path: Path, tmp_path: Path) -> None:
    strong = check_once(engine, random_adapter(tiny_base_path, tmp_path / "strong", seed=1))
    weak = check_once(engine, random_adapter(tiny_base_path, tmp_path / "weak", seed=1, scale=0.0001))
    assert strong.is_ok, strong.reason
    assert weak.is_ok, weak.reason
    assert strong.distance > 1 > 0.1 > weak.distance > weak.limit


def test_an_adapter_whose_b_is_zero_is_a_no_op(engine: Path, tiny_base_path: Path, tmp_path: Path) -> None:
    finding = check_once(engine, random_adapter(tiny_base_path, tmp_path, seed=1, scale=0))
    assert finding.verdict is FingerprintVerdict.NO_OP, finding.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.model.layers", "base_model.model.model.language_model.layers"),
        ("base_model.model.model.layers", "model.layers.0.base_model.layers"),
        ("layers.", "layers.1"),  # layers 10 and 11 of a model that has two
    ],
    ids=["multimodal prefix", "no prefix", "layers that are not there"],
)
def test_an_adapter_of_other_modules_is_loaded_by_vllm_and_is_a_no_op(
    engine: Path, tiny_base_path: Path, tmp_path: Path, old: str, new: str
) -> None:
    finding = check_once(engine, renamed(random_adapter(tiny_base_path, tmp_path, seed=1), old, new))
    assert finding.verdict is FingerprintVerdict.NO_OP, finding.reason


def test_weights_swapped_behind_a_name_are_a_mismatch(engine: Path, tiny_base_path: Path, tmp_path: Path) -> None:
    folder = random_adapter(tiny_base_path, tmp_path, seed=1)

    async def swap() -> tuple[FingerprintFinding, FingerprintFinding]:
        async with holding(engine, {"swapped": folder}) as host:
            records = Records(own="a", by_engine={"a": await fingerprint(host, "swapped")})
            before = await check(host, "swapped", records)
            random_adapter(tiny_base_path, folder, seed=2)
            await host.unload("swapped")
            await host.load("swapped", str(folder))
            return before, await check(host, "swapped", records)

    before, after = asyncio.run(swap())
    assert before.is_ok, before.reason
    assert (after.verdict, after.where) == (FingerprintVerdict.MISMATCH, Where.ALONE), after.reason


def test_other_weights_on_another_engine_are_a_split_brain(
    engine: Path, stock: Path, tiny_adapters: dict[str, Path]
) -> None:
    async def compare(folder: Path) -> FingerprintFinding:
        async with holding(engine, {"v": tiny_adapters["amber"]}) as one, holding(stock, {"v": folder}) as two:
            records = Records(own="two", by_engine={"one": await fingerprint(one, "v")})
            return await check(two, "v", records)

    same = asyncio.run(compare(tiny_adapters["amber"]))
    other = asyncio.run(compare(tiny_adapters["blue"]))
    assert same.is_ok, same.reason
    assert (other.verdict, other.where) == (FingerprintVerdict.SPLIT_BRAIN, Where.ALONE), other.reason
    assert other.distance > 1


def test_a_hundred_checks_of_healthy_adapters_beside_traffic_raise_no_alarm(
    engine: Path, tiny_adapters: dict[str, Path]
) -> None:
    versions = list(tiny_adapters)[:3]

    async def keep_asking(host: VllmHost, model: str) -> None:
        while True:
            await host.generate(model, "Tell me of " * len(model), tokens=48, started=asyncio.Event())

    async def check_all() -> list[FingerprintFinding]:
        found = []
        async with holding(engine, {name: tiny_adapters[name] for name in versions}) as host:
            base = (await host.base()).name
            models = [base, *versions]
            tolerance = await calibrate(host, base)
            records = {name: Records(own="a", by_engine={"a": await fingerprint(host, name)}) for name in models}
            traffic = [asyncio.ensure_future(keep_asking(host, name)) for name in models]
            for _ in range(34):
                together = await fingerprint_together(host, base, versions)
                now = {name: ProbeReading(alone=await fingerprint(host, name), mixed=together[name]) for name in models}
                found += [judge(name, now[name], now[base], records[name], tolerance) for name in versions]
                found.append(judge_base(now[base], records[base], tolerance))
            for task in traffic:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        return found

    found = asyncio.run(check_all())
    assert len(found) == 34 * 4
    assert [finding.reason for finding in found if not finding.is_ok] == []


def test_the_mixed_batch_shows_the_base_in_an_adapters_voice_unless_cured(
    engine: Path, stock: Path, tiny_adapters: dict[str, Path]
) -> None:
    async def check_base(uds: Path) -> list[FingerprintFinding]:
        async with holding(uds, tiny_adapters) as host:
            base = (await host.base()).name
            for name in tiny_adapters:  # each takes a slot; what goes wrong is the base with the last slot's weights
                await fingerprint(host, name)
            tolerance = await calibrate(host, base)
            alone = await fingerprint(host, base)
            company = list(tiny_adapters)[:2]
            tries = [(await fingerprint_together(host, base, company))[base] for _ in range(TRIES)]
            return [judge_base(ProbeReading(alone=alone, mixed=each), Records(), tolerance) for each in tries]

    faulty = asyncio.run(check_base(stock))
    cured = asyncio.run(check_base(engine))
    assert {(finding.verdict, finding.where) for finding in faulty} == {(FingerprintVerdict.MISMATCH, Where.MIXED)}
    assert min(finding.distance for finding in faulty) > 1
    assert [finding.reason for finding in cured if not finding.is_ok] == []
