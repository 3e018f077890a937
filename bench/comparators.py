"""`python -m bench.comparators`: CPU time of each comparator on one pair of answers, as a Markdown table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from statistics import median

from evaluators.compare import Comparator, comparators
from evaluators.observation import Kind, Observation, Pair, Prompt, Score, ToolCall

# 25 tokens of SmolLM2's vocabulary, give or take; eight of them are a usual answer of 200.
SENTENCES = (
    "The parcel left our warehouse on Tuesday morning and should reach you before the end of the week, number {}.",
    "Your parcel has left the warehouse this Tuesday, so it ought to be with you by the weekend at the latest ({}).",
)


def pair(tokens: int) -> Pair:
    """Return two answers of about `tokens` tokens on one subject, and a request that every comparator can use."""
    texts = [" ".join(sentence.format(n) for n in range(max(1, tokens // 25))) for sentence in SENTENCES]
    calls = [
        tuple(ToolCall(name="look", arguments=json.dumps({"n": n, "text": text[:60]})) for n in range(3))
        for text in texts
    ]
    control, candidate = (
        Observation(
            text=text,
            tool_calls=call,
            finish_reason="stop",
            completion_tokens=tokens,
            ttft_seconds=0.2,
            itl_seconds=0.02,
        )
        for text, call in zip(texts, calls, strict=True)
    )
    return Pair(kind=Kind.CANDIDATE, prompt=Prompt(expected="weekend"), control=control, candidate=candidate)


def json_pair(tokens: int) -> Pair:
    """Return two answers of about `tokens` tokens of JSON, and the schema that they follow."""
    schema = {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
    text = json.dumps([{"n": n, "name": f"parcel {n}", "state": "on its way"} for n in range(max(1, tokens // 20))])
    side = Observation(text=text, finish_reason="stop")
    return Pair(kind=Kind.CANDIDATE, prompt=Prompt(schema=schema, wants_json=True), control=side, candidate=side)


def first_seconds(comparator: Comparator, asked: Pair) -> float:
    """Return the CPU seconds of the first score, in which libraries and models are loaded."""
    start = time.process_time()
    if not isinstance(comparator.score(asked), Score):
        raise SystemExit(f"`{comparator.name}` has no score: {comparator.score(asked)}")
    return time.process_time() - start


def mean_seconds(comparator: Comparator, asked: Pair, seconds: float) -> float:
    """Return the CPU seconds of one score, the median of five means."""
    means = []
    for _ in range(5):
        count, start = 0, time.process_time()
        while (spent := time.process_time() - start) < seconds / 5:
            comparator.score(asked)
            count += 1
        means.append(spent / count)
    return median(means)


def main(arguments: Sequence[str]) -> None:
    """Measure every comparator of this process and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.comparators", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200, help="of each answer, about (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparator (default: %(default)s)")
    asked = parser.parse_args(arguments)
    sys.stdout.write("| comparator | CPU ms per pair | first time, ms |\n|---|---|---|\n")
    total = 0.0
    for name, comparator in comparators().items():
        sample = (json_pair if name == "json_valid" else pair)(asked.tokens)
        first = first_seconds(comparator, sample)
        each = mean_seconds(comparator, sample, asked.seconds)
        total += each
        sys.stdout.write(f"| {name} | {each * 1e3:.3f} | {first * 1e3:.0f} |\n")
    sys.stdout.write(f"| all | {total * 1e3:.3f} | |\n")


if __name__ == "__main__":
    main(sys.argv[1:])
