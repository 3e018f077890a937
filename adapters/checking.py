"""Check versions on one engine by their fingerprints: after each load, and once in a while.

What is asked is `prober.py`'s part, what the answers prove is `fingerprint.py`'s; here is when,
what is remembered, and that a fault must show twice before a version goes out of service.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from adapters.catalog import Entry
from adapters.fingerprint import (
    Finding,
    Fingerprint,
    Reading,
    Records,
    Tolerance,
    Verdict,
    Where,
    judge,
    judge_base,
)
from adapters.ports import HostUnavailable, Unfit
from adapters.prober import ProbeHost, ProbeRefused, calibrate, fingerprint, mixed

log = logging.getLogger("loragate.fingerprints")

# A fault must show this often in a row: one reading may meet a rare batch that calibration did not.
READINGS: Final = 2
# Other versions in the batch of one that was just loaded; in inspections as many as the engine takes.
COMPANY_AT_LOAD: Final = 1


class RecordKeeper(Protocol):
    """Where fingerprints that were found `ok` are kept, through restarts."""

    def of(self, version: str) -> Mapping[str, Fingerprint]:
        """Return a version's fingerprints by engine, the oldest first."""

    async def keep(self, version: str, engine: str, found: Fingerprint) -> None:
        """Add one, or replace the engine's."""

    async def forget(self, version: str, engine: str) -> None:
        """Remove one; it is no error if there is none."""


class FingerprintChecker:
    """The checks of one engine.

    Args:
        host: The engine.
        engine: Its name in records: its URL.
        base: Returns the name of its own model, None until it is known.
        records: Where fingerprints are kept.
        at_once: Adapters that the engine takes into one batch (vLLM's --max-loras), at least 1.
        judged: Told every verdict.
    """

    def __init__(
        self, host: ProbeHost, engine: str, *, base: Callable[[], str | None], records: RecordKeeper, at_once: int,
        judged: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._host = host
        self._engine = engine
        self._base = base
        self._records = records
        self._at_once = at_once
        self._judged = judged
        self._calibrating = asyncio.Lock()
        self._tolerance: Tolerance | None = None
        self._base_alone: Fingerprint | None = None
        self._findings: dict[str, Finding] = {}
        self._has_mixed = False  # a mixed batch has passed since the engine came up

    def reset(self) -> None:
        """The engine is another from now on."""
        self._tolerance = None
        self._base_alone = None
        self._has_mixed = False

    def last(self, version: str) -> dict[str, Any] | None:
        """Return the figures of a version's last check, for people."""
        finding = self._findings.get(version)
        if finding is None:
            return None
        return {
            "verdict": finding.verdict.value, "where": finding.where.value, "distance": round(finding.distance, 6),
            "limit": round(finding.limit, 6), "reason": finding.reason,
        }  # fmt: skip

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Compare a version that was just loaded with what is known of it, alone and beside `company`.

        Raises:
            Unfit: It is not what it should be, or the engine cannot be probed.
            HostUnavailable: The engine cannot be asked now.
        """
        version = entry.ref.version
        beside: Sequence[str] | None = sorted(company)[: min(COMPANY_AT_LOAD, self._at_once - 1)]
        # Loaded again, a version is asked alone: what becomes of it beside others is the engine's doing more than
        # its own, was seen when it was recorded, on this engine since it came up, and is seen again by `inspect`.
        if self._has_mixed and self._engine in self._records.of(version):
            beside = None
        try:
            found = (await self._confirmed([entry], beside))[version]
        except ProbeRefused as error:
            raise Unfit(f"{error} (or serve unchecked, with adapters.fingerprints off)") from None
        if not found.is_ok:
            raise Unfit(found.reason)
        self._has_mixed = True

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Check versions that are in service; returns those that fail, and why."""
        failures: dict[str, str] = {}
        every = list(entries)
        for at in range(0, len(every), self._at_once):
            try:
                found = await self._confirmed(every[at : at + self._at_once], ())
            except ProbeRefused as error:  # it was taken off while we asked: the next round finds out
                log.info("engine %s: %s", self._engine, error)
                continue
            failures |= {version: finding.reason for version, finding in found.items() if not finding.is_ok}
        return failures

    async def _confirmed(self, entries: Sequence[Entry], beside: Sequence[str] | None) -> dict[str, Finding]:
        """Return the findings of some versions, faults only if they show in each of some readings.

        Args:
            entries: At most as many as the engine takes into one batch.
            beside: Versions to share the mixed batch; None asks each alone only.
        """
        findings: dict[str, Finding] = {}
        suspects = list(entries)
        for _ in range(READINGS):
            findings |= await self._read(suspects, beside)
            suspects = [entry for entry in suspects if not findings[entry.ref.version].is_ok]
            if not suspects:
                break
        for entry in entries:
            await self._note(entry, findings[entry.ref.version])
        return findings

    async def _read(self, entries: Sequence[Entry], beside: Sequence[str] | None) -> dict[str, Finding]:
        base, tolerance, base_alone = await self._calibrated()
        versions = [entry.ref.version for entry in entries]
        alone = {version: await fingerprint(self._host, version) for version in versions}
        together = {} if beside is None else await self._together(base, versions, beside)
        of_base = judge_base(Reading(alone=base_alone, mixed=together.get(base)), Records(), tolerance)
        findings: dict[str, Finding] = {}
        for entry, version in zip(entries, versions, strict=True):
            now = Reading(alone=alone[version], mixed=together.get(version))
            records = Records(own=self._engine, by_engine=self._records.of(version))
            found = judge(version, now, Reading(alone=base_alone), records, tolerance, may_be_null=entry.may_be_null)
            # A version may be well and yet be the one with whose weights the base is answered.
            findings[version] = found if not found.is_ok or of_base.is_ok else of_base
            if findings[version].is_ok and self._engine not in records.by_engine:
                await self._records.keep(version, self._engine, now.alone)
        return findings

    async def _together(self, base: str, versions: Sequence[str], beside: Sequence[str]) -> dict[str, Fingerprint]:
        try:
            return await mixed(self._host, base, [*versions, *beside])
        except ProbeRefused:
            if not beside:
                raise
            return await mixed(self._host, base, versions)  # the company was evicted meanwhile

    async def _note(self, entry: Entry, finding: Finding) -> None:
        version = entry.ref.version
        self._findings[version] = finding
        self._judged(finding.verdict.value)
        if finding.verdict is Verdict.SPLIT_BRAIN:
            await self._records.forget(version, self._engine)  # it may be the wrong one that was recorded
        if not finding.is_ok and finding.where is Where.ALONE:
            self._base_alone = None  # ask the base again before the next verdict: it may be what has changed

    async def _calibrated(self) -> tuple[str, Tolerance, Fingerprint]:
        base = self._base()
        if base is None:
            raise HostUnavailable("the engine has not told its base yet")
        async with self._calibrating:
            if self._tolerance is None:
                self._tolerance = await calibrate(self._host, base)
                log.info(
                    "engine %s: noise %.2g nats, limit %.2g", self._engine, self._tolerance.noise, self._tolerance.same
                )
            if self._base_alone is None:
                self._base_alone = await fingerprint(self._host, base)
            return base, self._tolerance, self._base_alone
