"""Check versions on one engine by their fingerprints: after each load, and at intervals.

`prober.py` asks the engine, `fingerprint.py` judges the answers. This module decides when to check and what to
remember, and requires a fault to show twice before a version goes out of service. A base that has changed is reported
but stays in service: versions that it affects fail by their own records.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol

from adapters.catalog import Entry
from adapters.fingerprint import (
    BASE,
    CEILING,
    Fingerprint,
    FingerprintFinding,
    FingerprintVerdict,
    ProbeReading,
    Records,
    Tolerance,
    Where,
    judge,
    judge_base,
)
from adapters.ports import HostUnavailable, Unfit
from adapters.prober import NotServed, ProbeHost, ProbeRefused, calibrate, fingerprint, fingerprint_together

log = logging.getLogger("loragate.fingerprints")

# A fault must show this often in a row: one reading may hit a rare kind of batch that calibration did not see.
READINGS: Final = 2
# How many other versions share the batch of a version that was just loaded. Inspections use full batches.
COMPANY_AT_LOAD: Final = 1


class RecordKeeper(Protocol):
    """The store of fingerprints that were found `ok`; it outlives restarts.

    A subject is a version, or `base_subject` of a base's name.
    """

    def of(self, subject: str) -> Mapping[str, Fingerprint]:
        """Return a subject's fingerprints by engine, oldest first."""

    async def keep(self, subject: str, engine: str, found: Fingerprint) -> None:
        """Store an engine's fingerprint of a subject; it replaces an earlier one."""

    async def forget(self, subject: str, engine: str) -> None:
        """Delete an engine's fingerprint of a subject, if there is one."""


def base_subject(name: str) -> str:
    """Return the subject under which a base's fingerprints are stored: unlike any version, and a valid file name."""
    return f"base-{sha256(name.encode()).hexdigest()[:12]}"


class FingerprintChecker:
    """Checks the versions on one engine.

    Args:
        host: The engine.
        engine: The engine's name in records, which is its URL.
        base: Returns the name of the engine's base model, None until it is known.
        records: The stored fingerprints.
        at_once: Adapters that the engine takes into one batch (vLLM's --max-loras), at least 1.
        on_verdict: Called with every verdict.
    """

    def __init__(
        self,
        host: ProbeHost,
        engine: str,
        *,
        base: Callable[[], str | None],
        records: RecordKeeper,
        at_once: int,
        on_verdict: Callable[[str], None],
    ) -> None:
        self._host = host
        self._engine = engine
        self._base = base
        self._records = records
        self._at_once = at_once
        self._on_verdict = on_verdict
        self._calibrating = asyncio.Lock()
        # One check at a time. An inspection keeps a row running for each of as many adapters as the engine takes into a
        # batch: the probe of one more adapter would wait until those rows end, which can take minutes on a CPU.
        self._turn = asyncio.Lock()
        self._tolerance: Tolerance | None = None
        self._base_alone: Fingerprint | None = None
        self._findings: dict[str, FingerprintFinding] = {}
        # Since the engine came up:
        self._has_mixed = False  # a mixed batch has passed
        self._has_failed_mixed = False  # and one has failed

    def reset(self) -> None:
        """Forget what was measured, because the engine was restarted or replaced."""
        self._tolerance = None
        self._base_alone = None
        self._has_mixed = self._has_failed_mixed = False

    def last(self, version: str) -> dict[str, Any] | None:
        """Return the figures of the last check of a version, or of `BASE`, for display."""
        finding = self._findings.get(version)
        if finding is None:
            return None
        return {
            "verdict": finding.verdict.value,
            "where": finding.where.value,
            "distance": round(finding.distance, 6),
            "limit": round(finding.limit, 6),
            "reason": finding.reason,
        }

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Compare a version that was just loaded with its records, alone and in a batch with some of `company`.

        Raises:
            Unfit: It differs from its records, or the engine cannot be probed.
            HostUnavailable: The engine cannot be asked now.
        """
        version = entry.ref.version
        beside: Sequence[str] | None = sorted(company)[: min(COMPANY_AT_LOAD, self._at_once - 1)]
        # A version that is loaded again is only asked alone. Faults in mixed batches are the engine's rather than the
        # version's; mixed batches passed here when the version was recorded, have passed since the engine came up, and
        # `inspect` checks them again. But once a mixed batch has failed on this engine, every load must pass one.
        if self._has_mixed and not self._has_failed_mixed and self._engine in self._records.of(version):
            beside = None
        try:
            async with self._turn:
                found = (await self._confirm([entry], beside, is_new=True))[version]
        except ProbeRefused as error:
            raise Unfit(f"{error} (or serve unchecked, with adapters.fingerprints off)") from None
        if not found.is_ok:
            raise Unfit(self._reason(found))
        self._has_mixed = True

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Check versions that are in service; returns those that fail, with the reasons."""
        self._base_alone = None  # ask the base again, since it may have changed, too
        try:
            await self._calibrate()
        except ProbeRefused as error:
            log.warning("engine %s: fingerprints cannot be checked: %s", self._engine, error)
            return {}
        failures: dict[str, str] = {}
        every = list(entries)
        for at in range(0, len(every), self._at_once):
            together = every[at : at + self._at_once]
            try:
                async with self._turn:
                    found = await self._confirm(together, ())
            except ProbeRefused:
                for entry in together:  # one was refused, or unloaded meanwhile: check each by itself
                    failures |= await self._inspect_one(entry)
            else:
                failures |= self._failures(found)
        return failures

    async def _inspect_one(self, entry: Entry) -> dict[str, str]:
        reason = ""
        for _ in range(READINGS):
            try:
                async with self._turn:
                    return self._failures(await self._confirm([entry], ()))
            except NotServed as error:  # unloaded meanwhile: not a fault, and the loader notices by itself
                log.info("engine %s: %s", self._engine, error)
                return {}
            except ProbeRefused as error:
                reason = str(error)
        return {entry.ref.version: reason}

    def _failures(self, found: Mapping[str, FingerprintFinding]) -> dict[str, str]:
        return {version: self._reason(finding) for version, finding in found.items() if not finding.is_ok}

    def _reason(self, finding: FingerprintFinding) -> str:
        """Return why a version fails; if the base has changed, that is added, as it may be the true cause."""
        base = self._findings[BASE]
        return finding.reason if base.is_ok or finding is base else f"{finding.reason}; {base.reason}"

    async def _confirm(
        self, entries: Sequence[Entry], beside: Sequence[str] | None, *, is_new: bool = False
    ) -> dict[str, FingerprintFinding]:
        """Return the findings on some versions. A fault counts only if it shows in each of `READINGS` readings.

        Args:
            entries: At most as many as the engine takes into one batch.
            beside: Other versions for the mixed batch; None asks each version alone only.
            is_new: Record versions that have no record. Otherwise a version without one has just been removed.
        """
        findings: dict[str, FingerprintFinding] = {}
        suspects = list(entries)
        for _ in range(READINGS):
            findings |= await self._read(suspects, beside, is_new=is_new)
            suspects = [entry for entry in suspects if not findings[entry.ref.version].is_ok]
            if not suspects:
                break
            if all(found.where is Where.ALONE for found in findings.values() if not found.is_ok):
                # Ask the base again before the next verdict, since it may be the base that has changed. After a fault
                # in a mixed batch do not: its last rows may still run and would affect the base's answer.
                self._base_alone = None
        for entry in entries:
            await self._note(entry, findings[entry.ref.version])
        return findings

    async def _read(
        self, entries: Sequence[Entry], beside: Sequence[str] | None, *, is_new: bool
    ) -> dict[str, FingerprintFinding]:
        base, tolerance, base_alone = await self._calibrate()
        versions = [entry.ref.version for entry in entries]
        alone = {version: await fingerprint(self._host, version) for version in versions}
        together = {} if beside is None else await self._together(base, versions, beside)
        # No records: this only tests whether the engine can serve the base and adapters in one batch.
        of_base = judge_base(ProbeReading(alone=base_alone, mixed=together.get(base)), Records(), tolerance)
        if self._base_is_in_doubt():  # its agreement with itself proves nothing then
            of_base = self._findings[BASE]
        findings: dict[str, FingerprintFinding] = {}
        for entry, version in zip(entries, versions, strict=True):
            now = ProbeReading(alone=alone[version], mixed=together.get(version))
            records = Records(own=self._engine, by_engine=self._records.of(version))
            found = judge(
                version, now, ProbeReading(alone=base_alone), records, tolerance, may_be_null=entry.may_be_null
            )
            # A version may pass although the engine applies its weights to the base's rows, so the base must pass, too.
            findings[version] = found if not found.is_ok or of_base.is_ok else of_base
            # Record at once, so that of two engines that disagree the second one finds the first one's record.
            if findings[version].is_ok and (is_new or self._engine in records.by_engine):
                await self._keep(version, records, now.alone)
        return findings

    async def _together(self, base: str, versions: Sequence[str], beside: Sequence[str]) -> dict[str, Fingerprint]:
        try:
            return await fingerprint_together(self._host, base, [*versions, *beside])
        except ProbeRefused:
            if not beside:
                raise
            return await fingerprint_together(self._host, base, versions)  # some of `beside` was evicted meanwhile

    async def _note(self, entry: Entry, finding: FingerprintFinding) -> None:
        version = entry.ref.version
        self._findings[version] = finding
        self._on_verdict(finding.verdict.value)
        if finding.verdict is FingerprintVerdict.SPLIT_BRAIN:
            await self._records.forget(version, self._engine)  # this engine's record may be the wrong one
        if not finding.is_ok and finding.where is Where.MIXED:
            self._has_failed_mixed = True

    async def _keep(self, subject: str, records: Records, found: Fingerprint) -> None:
        """Record a good fingerprint, unless this engine has one that was made in the same configuration."""
        own = records.comparable().get(self._engine)
        if own is None or own.engine != found.engine:
            await self._records.keep(subject, self._engine, found)

    async def _calibrate(self) -> tuple[str, Tolerance, Fingerprint]:
        base = self._base()
        if base is None:
            raise HostUnavailable("the engine has not told its base yet")
        async with self._calibrating:
            if self._tolerance is None:
                self._tolerance = await calibrate(self._host, base)
                log.info(
                    "engine %s: noise %.2g nats, limit %.2g", self._engine, self._tolerance.noise, self._tolerance.same
                )
            if self._base_alone is None or self._base_is_in_doubt():
                self._base_alone = await self._base_found(base, self._tolerance)
            return base, self._tolerance, self._base_alone

    def _base_is_in_doubt(self) -> bool:
        """Whether the base's last answer alone may have been affected by an adapter.

        A faulty engine may answer the base with an adapter's weights. Then any row that still runs, a user's or one of
        a cancelled batch, affects the base's answer alone in the same way as in a mixed batch, so both agree.
        """
        return self._has_failed_mixed and not self._findings[BASE].is_ok

    async def _base_found(self, base: str, tolerance: Tolerance) -> Fingerprint:
        """Return the base's answers now. Report if they differ from its record or from other engines' records."""
        subject = base_subject(base)
        records = Records(own=self._engine, by_engine=self._records.of(subject))
        for _ in range(READINGS):
            alone = await fingerprint(self._host, base)
            finding = judge_base(ProbeReading(alone=alone), records, tolerance)
            if finding.is_ok:
                if tolerance.same < CEILING:  # an engine as noisy as that is no reference for others
                    await self._keep(subject, records, alone)
                break
        before = self._findings.get(BASE)
        self._findings[BASE] = finding
        self._on_verdict(finding.verdict.value)
        if finding.verdict is FingerprintVerdict.SPLIT_BRAIN:
            await self._records.forget(subject, self._engine)
        if before is None or before.verdict is not finding.verdict:
            level = logging.INFO if finding.is_ok else logging.ERROR
            found = f"{finding.verdict.value}: {finding.reason}"
            log.log(level, "engine %s: base %s (records: %s): %s", self._engine, base, subject, found)
        return alone
