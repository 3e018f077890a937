"""Check versions on one engine by their fingerprints: after each load, and once in a while.

What is asked is `prober.py`'s part, what the answers prove is `fingerprint.py`'s; here is when,
what is remembered, and that a fault must show twice before a version goes out of service.
A base that is not what it was is reported and stays in service: versions that it spoils fail by their own records.
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

# A fault must show this often in a row: one reading may meet a rare batch that calibration did not.
READINGS: Final = 2
# Other versions in the batch of one that was just loaded; in inspections as many as the engine takes.
COMPANY_AT_LOAD: Final = 1


class RecordKeeper(Protocol):
    """Where fingerprints that were found `ok` are kept, through restarts.

    A subject is a version, or `base_subject` of a base's name.
    """

    def of(self, subject: str) -> Mapping[str, Fingerprint]:
        """Return a subject's fingerprints by engine, the oldest first."""

    async def keep(self, subject: str, engine: str, found: Fingerprint) -> None:
        """Add one, or replace the engine's."""

    async def forget(self, subject: str, engine: str) -> None:
        """Remove one; it is no error if there is none."""


def base_subject(name: str) -> str:
    """Return what the records of a base are kept under: like no version, and fit for a file's name."""
    return f"base-{sha256(name.encode()).hexdigest()[:12]}"


class FingerprintChecker:
    """The checks of one engine.

    Args:
        host: The engine.
        engine: Its name in records: its URL.
        base: Returns the name of its own model, None until it is known.
        records: Where fingerprints are kept.
        at_once: Adapters that the engine takes into one batch (vLLM's --max-loras), at least 1.
        on_verdict: Told every verdict.
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
        self._tolerance: Tolerance | None = None
        self._base_alone: Fingerprint | None = None
        self._findings: dict[str, FingerprintFinding] = {}
        # Since the engine came up:
        self._has_mixed = False  # a mixed batch has passed
        self._has_failed_mixed = False  # and one has failed

    def reset(self) -> None:
        """The engine is another from now on."""
        self._tolerance = None
        self._base_alone = None
        self._has_mixed = self._has_failed_mixed = False

    def last(self, version: str) -> dict[str, Any] | None:
        """Return the figures of the last check of a version, or of `BASE`, for people."""
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
        """Compare a version that was just loaded with what is known of it, alone and beside `company`.

        Raises:
            Unfit: It is not what it should be, or the engine cannot be probed.
            HostUnavailable: The engine cannot be asked now.
        """
        version = entry.ref.version
        beside: Sequence[str] | None = sorted(company)[: min(COMPANY_AT_LOAD, self._at_once - 1)]
        # Loaded again, a version is asked alone: what becomes of it beside others is the engine's doing more than
        # its own, was seen when it was recorded, on this engine since it came up, and is seen again by `inspect`. But
        # on an engine that has failed in this, every load is a chance to fail: none is let in without.
        if self._has_mixed and not self._has_failed_mixed and self._engine in self._records.of(version):
            beside = None
        try:
            found = (await self._confirm([entry], beside, is_new=True))[version]
        except ProbeRefused as error:
            raise Unfit(f"{error} (or serve unchecked, with adapters.fingerprints off)") from None
        if not found.is_ok:
            raise Unfit(self._reason(found))
        self._has_mixed = True

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Check versions that are in service; returns those that fail, and why."""
        self._base_alone = None  # it may have changed, too
        try:
            await self._calibrate()
        except ProbeRefused as error:
            log.warning("engine %s: nothing can be checked: %s", self._engine, error)
            return {}
        failures: dict[str, str] = {}
        every = list(entries)
        for at in range(0, len(every), self._at_once):
            together = every[at : at + self._at_once]
            try:
                found = await self._confirm(together, ())
            except ProbeRefused:
                for entry in together:  # one of them is refused, or was taken off while we asked
                    failures |= await self._inspect_one(entry)
            else:
                failures |= self._failures(found)
        return failures

    async def _inspect_one(self, entry: Entry) -> dict[str, str]:
        reason = ""
        for _ in range(READINGS):
            try:
                return self._failures(await self._confirm([entry], ()))
            except NotServed as error:  # whoever took it off knows, and the loader finds out
                log.info("engine %s: %s", self._engine, error)
                return {}
            except ProbeRefused as error:
                reason = str(error)
        return {entry.ref.version: reason}

    def _failures(self, found: Mapping[str, FingerprintFinding]) -> dict[str, str]:
        return {version: self._reason(finding) for version, finding in found.items() if not finding.is_ok}

    def _reason(self, finding: FingerprintFinding) -> str:
        """Return why a version fails; a base that is not what it was may be the true cause."""
        base = self._findings[BASE]
        return finding.reason if base.is_ok or finding is base else f"{finding.reason}; {base.reason}"

    async def _confirm(
        self, entries: Sequence[Entry], beside: Sequence[str] | None, *, is_new: bool = False
    ) -> dict[str, FingerprintFinding]:
        """Return the findings of some versions, faults only if they show in each of some readings.

        Args:
            entries: At most as many as the engine takes into one batch.
            beside: Versions to share the mixed batch; None asks each alone only.
            is_new: Record those that have no record. One in service that has none has just been removed.
        """
        findings: dict[str, FingerprintFinding] = {}
        suspects = list(entries)
        for _ in range(READINGS):
            findings |= await self._read(suspects, beside, is_new=is_new)
            suspects = [entry for entry in suspects if not findings[entry.ref.version].is_ok]
            if not suspects:
                break
            if all(found.where is Where.ALONE for found in findings.values() if not found.is_ok):
                # Ask the base again before the next verdict: it may be what has changed. Not after a fault in a
                # mixed batch, whose last rows may still run and would be in the base's answer.
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
        # Without records: here it counts only whether the engine can serve the base and adapters together.
        of_base = judge_base(ProbeReading(alone=base_alone, mixed=together.get(base)), Records(), tolerance)
        if self._base_is_in_doubt():  # that it agrees with itself proves nothing
            of_base = self._findings[BASE]
        findings: dict[str, FingerprintFinding] = {}
        for entry, version in zip(entries, versions, strict=True):
            now = ProbeReading(alone=alone[version], mixed=together.get(version))
            records = Records(own=self._engine, by_engine=self._records.of(version))
            found = judge(
                version, now, ProbeReading(alone=base_alone), records, tolerance, may_be_null=entry.may_be_null
            )
            # A version may be well and yet be the one with whose weights the base is answered.
            findings[version] = found if not found.is_ok or of_base.is_ok else of_base
            # At once, so that of two engines that disagree the second one finds the first one's record.
            if findings[version].is_ok and (is_new or self._engine in records.by_engine):
                await self._keep(version, records, now.alone)
        return findings

    async def _together(self, base: str, versions: Sequence[str], beside: Sequence[str]) -> dict[str, Fingerprint]:
        try:
            return await fingerprint_together(self._host, base, [*versions, *beside])
        except ProbeRefused:
            if not beside:
                raise
            return await fingerprint_together(self._host, base, versions)  # the company was evicted meanwhile

    async def _note(self, entry: Entry, finding: FingerprintFinding) -> None:
        version = entry.ref.version
        self._findings[version] = finding
        self._on_verdict(finding.verdict.value)
        if finding.verdict is FingerprintVerdict.SPLIT_BRAIN:
            await self._records.forget(version, self._engine)  # it may be the wrong one that was recorded
        if not finding.is_ok and finding.where is Where.MIXED:
            self._has_failed_mixed = True

    async def _keep(self, subject: str, records: Records, found: Fingerprint) -> None:
        """Record what was found good, if this engine has no record that compares with it to the finest limit."""
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
        """Whether what the base last answered alone may have been an adapter's doing.

        On an engine that answers the base with an adapter's weights, any row that still runs, a user's or one of a
        batch that was just given up, is in the base's answer alone as well as in the mixed one: they agree.
        """
        return self._has_failed_mixed and not self._findings[BASE].is_ok

    async def _base_found(self, base: str, tolerance: Tolerance) -> Fingerprint:
        """Return what the base answers now; report it if that is not what it was, or not what other engines serve."""
        subject = base_subject(base)
        records = Records(own=self._engine, by_engine=self._records.of(subject))
        for _ in range(READINGS):
            alone = await fingerprint(self._host, base)
            finding = judge_base(ProbeReading(alone=alone), records, tolerance)
            if finding.is_ok:
                if tolerance.same < CEILING:  # an engine that contradicts itself is no witness
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
