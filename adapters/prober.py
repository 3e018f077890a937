"""Ask an engine the probes: each model alone, several in one batch, and the base repeatedly to measure noise.

The engine is any implementation of `ProbeHost`; `fingerprint.py` judges the answers.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from adapters.fingerprint import PROBES, TOP, Answers, Fingerprint, Tolerance, distance

# In a mixed batch each model answers only the first probes. With one more row that each model keeps running, 4 models
# need 12 rows, which fit into one batch of vLLM on a CPU (--max-num-seqs 16) beside some other traffic.
MIXED_PROBES: Final = 2
# The most tokens of a running row: a second's worth on the fastest engine. It is normally stopped sooner.
RUNNING_TOKENS: Final = 256
# In calibration, how often the base is asked alone, and with how many copies of itself in one batch.
REPEATS: Final = 3
COPIES: Final = (1, 2, 4)


class ProbeRefused(Exception):
    """The engine does not answer probes for this model; the message says why and what to do."""


class NotServed(ProbeRefused):
    """The engine does not know the model, which may have been unloaded meanwhile."""


class ProbeHost(Protocol):
    """An engine that returns the most likely next tokens."""

    async def next_tokens(self, model: str, prompts: Sequence[str], *, top: int) -> Answers:
        """Return the `top` most likely next tokens after each prompt, asked in one request.

        Raises:
            HostUnavailable: The engine cannot be asked now.
            NotServed: It does not serve the model.
            ProbeRefused: It does not return log-probabilities.
        """

    async def generate(self, model: str, prompt: str, *, tokens: int, started: asyncio.Event) -> None:
        """Generate `tokens` and discard them. Set `started` at the first one, and stop when cancelled.

        Raises:
            HostUnavailable, NotServed, ProbeRefused: As for `next_tokens`.
        """


async def fingerprint(host: ProbeHost, model: str) -> Fingerprint:
    """Return the answers of `model` to all probes, asked in one request; other traffic may share its batch.

    Raises:
        HostUnavailable, ProbeRefused: See `ProbeHost`.
    """
    return Fingerprint.of(await host.next_tokens(model, PROBES, top=TOP))


async def fingerprint_together(host: ProbeHost, base: str, versions: Collection[str]) -> dict[str, Fingerprint]:
    """Return the answers of the base and `versions` to the first probes, while all of them share the engine's batch.

    An engine groups requests into steps as it likes, and one request cannot name two models. So each model first gets a
    running row, and the probes are sent when every one of these rows has produced a token. Whatever step a probe comes
    into, rows of all models are in it.

    Args:
        host: The engine.
        base: The name of its base model.
        versions: At most as many as it can have in one batch (vLLM's --max-loras).

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
    """Return limits that follow from the base's current distances to itself on this engine.

    The base is asked several times alone, and in batches of growing size: the effect of a batch's size on rounding is
    most of the noise.

    Raises:
        HostUnavailable, ProbeRefused: See `ProbeHost`.
    """
    first = await fingerprint(host, base)
    readings = [await fingerprint(host, base) for _ in range(REPEATS)]
    for copies in COPIES:
        async with _all_or_error() as group:
            # One more row, so that the batch has another size than the probes alone.
            group.create_task(host.next_tokens(base, PROBES[:1], top=1))
            together = [group.create_task(fingerprint(host, base)) for _ in range(copies)]
        readings += [task.result() for task in together]
    return Tolerance.of([distance(first, reading) for reading in readings])


@asynccontextmanager
async def _all_or_error() -> AsyncIterator[asyncio.TaskGroup]:
    """Run a group of tasks; if one fails, cancel the others and raise that task's error."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
