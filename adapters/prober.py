"""Ask an engine the probes: each model alone, several in one batch, and the base again and again for its noise.

The engine is whatever implements `ProbeHost`; what the answers prove is `fingerprint.py`'s part.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from adapters.fingerprint import PROBES, TOP, Answers, Fingerprint, Tolerance, distance

# In a mixed batch each model answers the first probes only: with one row that each keeps running, 4 models are 12 rows,
# which fit into one batch of vLLM on a CPU (--max-num-seqs 16) beside some other traffic.
MIXED_PROBES: Final = 2
# What a running row generates at most before it is given up: a second on the fastest engine, and it is stopped sooner.
RUNNING_TOKENS: Final = 256
# Calibration: how often the base is asked alone, and with how many copies of itself in a batch.
REPEATS: Final = 3
COPIES: Final = (1, 2, 4)


class ProbeRefused(Exception):
    """The engine will not answer probes for this model; the message says why and what to do."""


class NotServed(ProbeRefused):
    """The engine does not know the model, which may have been taken off meanwhile."""


class ProbeHost(Protocol):
    """An engine that can be asked for the most likely next tokens."""

    async def next_tokens(self, model: str, prompts: Sequence[str], *, top: int) -> Answers:
        """Return the `top` most likely next tokens after each prompt, asked in one request.

        Raises:
            HostUnavailable: The engine cannot be asked now.
            NotServed: It does not serve the model.
            ProbeRefused: It will not say log-probabilities.
        """

    async def generate(self, model: str, prompt: str, *, tokens: int, started: asyncio.Event) -> None:
        """Generate `tokens` and throw them away; set `started` at the first one, and stop when cancelled.

        Raises:
            HostUnavailable, NotServed, ProbeRefused: As above.
        """


async def fingerprint(host: ProbeHost, model: str) -> Fingerprint:
    """Return what `model` answers to all probes in one request; other traffic may share its batch.

    Raises:
        HostUnavailable, ProbeRefused: See `ProbeHost`.
    """
    return Fingerprint.of(await host.next_tokens(model, PROBES, top=TOP))


async def fingerprint_together(host: ProbeHost, base: str, versions: Collection[str]) -> dict[str, Fingerprint]:
    """Return what the base and `versions` answer, to the first probes, while all of them share the engine's batch.

    An engine puts what arrives together into steps as it likes, and one request cannot name two models. So each
    model has a row running first, and the probes are sent when all of them have had a token: whatever step a probe
    comes into, the rows of all models are in it.

    Args:
        host: The engine.
        base: Its own model's name.
        versions: As many as it can have in a batch (vLLM's --max-loras) or fewer.

    Raises:
        HostUnavailable, ProbeRefused: See `ProbeHost`.
    """
    models = [base, *versions]
    started = [asyncio.Event() for _ in models]
    async with _all_or_error() as group:
        running = [
            group.create_task(host.generate(model, PROBES[0], tokens=RUNNING_TOKENS, started=event))
            for model, event in zip(models, started, strict=True)
        ]
        for event in started:
            await event.wait()
        probes = PROBES[:MIXED_PROBES]
        asks = [group.create_task(host.next_tokens(model, probes, top=TOP)) for model in models]
        answers = await asyncio.gather(*asks)
        for task in running:
            task.cancel()
    return {model: Fingerprint.of(each) for model, each in zip(models, answers, strict=True)}


async def calibrate(host: ProbeHost, base: str) -> Tolerance:
    """Return limits that follow from how far the base is from itself on this engine, now.

    It is asked several times alone, and in batches of more and more rows: what a batch's size does to rounding is
    most of the noise.

    Raises:
        HostUnavailable, ProbeRefused: See `ProbeHost`.
    """
    first = await fingerprint(host, base)
    readings = [await fingerprint(host, base) for _ in range(REPEATS)]
    for copies in COPIES:
        async with _all_or_error() as group:
            # A row of its own beside them, for a batch of another size than those alone.
            group.create_task(host.next_tokens(base, PROBES[:1], top=1))
            together = [group.create_task(fingerprint(host, base)) for _ in range(copies)]
        readings += [task.result() for task in together]
    return Tolerance.of([distance(first, reading) for reading in readings])


@asynccontextmanager
async def _all_or_error() -> AsyncIterator[asyncio.TaskGroup]:
    """Run a group of tasks; if one fails, stop the others and raise its own error."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
