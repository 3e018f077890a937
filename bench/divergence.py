"""How much of the true KL divergence the bound and the estimate of drift tell, by real adapters.

    python -m bench.divergence [--answers 16] [--temperature 1 ...]

The truth is computed by transformers in float32 over the whole vocabulary, from the same tokens: an implementation
that shares nothing with `evaluators/drift` but the tokens. The versions are those of `loragate demo`: the
base model, its adapter `support`, the better one and the overfitted one; what the cache lacks is trained first.

Prints two tables. The first: nats a token of the truth, the share of it that the lower bound and the estimate tell
(means over answers, with the standard error of the share), and how often the report's 95 % interval over
`SESSIONS` resampled answers holds the truth. The second: with answers resampled as sessions and judged as a gate
`kl` judges them, in how many rounds it fails and passes at limits below and above the truth.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final

from evaluators.drift.divergence import TokenLogprobs, estimate, lower_bound
from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import criterion
from evaluators.judge.verdict import Verdict
from evaluators.observation import Drift, Kind, ScoredPair
from gateway.admin.shadow.intervals import estimate_of
from gateway.demo.adapters import BETTER, OVERFITTED, demo_adapters
from gateway.demo.base_model import demo_base
from gateway.settings import load

BASE: Final = "base"
SUPPORT: Final = "support"
# served, other
PAIRS: Final = (
    (SUPPORT, OVERFITTED),
    (OVERFITTED, SUPPORT),
    (BASE, SUPPORT),
    (SUPPORT, BETTER),
    (BETTER, SUPPORT),
)
PROMPTS: Final = (
    "What is the capital of Japan?",
    "Why is the sky blue?",
    "How do I reset my password?",
    "What is 12 times 3?",
    "Who was Albert Einstein?",
    "Name three fruits.",
    "How long does a refund take?",
    "What does a nurse do?",
)
TEMPERATURES: Final = (0.0, 0.7, 1.0)
TOKENS: Final = 32
TOPS: Final = (5, 20)
# Of the truth.
LIMITS: Final = (0.5, 0.9, 1.5)
ROUNDS: Final = 100
SESSIONS: Final = 300
MAX_SESSIONS: Final = 500
# A look after so many sessions: more looks find hardly more.
LOOK: Final = 25
SCALE: Final = 5.0  # nats, `evaluators.drift.token_kl.KL_CAP_NATS`


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of an answer.

    Attributes:
        token: What was drawn.
        served, other: What an engine tells of both sides, by k.
        truth: The divergence over the whole vocabulary, nats.
    """

    token: int
    served: dict[int, TokenLogprobs]
    other: dict[int, TokenLogprobs]
    truth: float


Answer = list[Scored]


class Versions:
    """The base and its adapters in one model of transformers, in float32.

    Args:
        base: The base model's folder.
        adapters: Name → folder.
        threads: For torch.
    """

    def __init__(self, base: Path, adapters: dict[str, Path], threads: int) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        (first, folder), *others = adapters.items()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._model: Any = PeftModel.from_pretrained(model, folder, adapter_name=first)
        for name, each in others:
            self._model.load_adapter(each, adapter_name=name)
        self._model.eval()

    def draw(self, version: str, prompt: str, temperature: float, count: int, seed: int) -> tuple[int, list[list[int]]]:
        """Return the prompt's length, and prompt and answer of `count` answers; one where nothing is drawn at 0."""
        torch = self._torch
        torch.manual_seed(seed)
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        asked = self._tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        end = self._tokenizer.eos_token_id
        with torch.no_grad():
            told = self._as(version)(
                "generate",
                input_ids=asked,
                max_new_tokens=TOKENS,
                pad_token_id=end,
                eos_token_id=end,
                num_return_sequences=count if temperature else 1,
                **(drawing or {"do_sample": False}),
            )
        length = asked.shape[1]
        return length, [[*row[:length], *_until(row[length:], end)] for row in told.tolist()]

    def logprobs(self, version: str, rows: Sequence[Sequence[int]], length: int) -> list[Any]:
        """Return the log-probabilities of each row's tokens behind `length`: (n_tokens, n_vocabulary), float64."""
        torch = self._torch
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])  # what follows has no part in it
        with torch.no_grad():
            logits = self._as(version)(None, input_ids=ids, logits_to_keep=longest - length + 1).logits
        return [
            torch.log_softmax(each[: len(row) - length].double(), dim=-1)
            for each, row in zip(logits, rows, strict=True)
        ]

    def _as(self, version: str) -> Any:
        def call(method: str | None, **more: Any) -> Any:
            ask = self._model if method is None else getattr(self._model, method)
            if version == BASE:
                with self._model.disable_adapter():
                    return ask(**more)
            self._model.set_adapter(version)
            return ask(**more)

        return call

    def scored(self, served: str, other: str, rows: Sequence[Sequence[int]], length: int) -> list[Answer]:
        """Return each answer's tokens with the truth and with what an engine would tell of them."""
        both = (self.logprobs(version, rows, length) for version in (served, other))
        return [self._scored(row[length:], p, q) for row, p, q in zip(rows, *both, strict=True)]

    def _scored(self, reply: Sequence[int], p: Any, q: Any) -> Answer:
        truths = (p.exp() * (p - q)).sum(dim=-1).tolist()
        sides = []
        for side in (p, q):
            values, tokens = self._torch.topk(side, max(TOPS), dim=-1)
            own = [float(side[at, token]) for at, token in enumerate(reply)]
            sides.append(list(zip(values.tolist(), tokens.tolist(), own, strict=True)))
        return [
            Scored(token, _told_by_k(ours, token), _told_by_k(theirs, token), truth)
            for token, ours, theirs, truth in zip(reply, *sides, truths, strict=True)
        ]


def _until(row: Sequence[int], end: int) -> Sequence[int]:
    return row[: row.index(end) + 1] if end in row else row


def _told_by_k(row: tuple[list[float], list[int], float], token: int) -> dict[int, TokenLogprobs]:
    return {top: _told(row, token, top) for top in TOPS}


def _told(row: tuple[list[float], list[int], float], token: int, top: int) -> TokenLogprobs:
    values, tokens, own = row
    return TokenLogprobs({**dict(zip(tokens[:top], values[:top], strict=True)), token: own}, frozenset(tokens[:top]))


def means(answer: Answer, top: int, temperature: float) -> tuple[float, float, float]:
    """Return an answer's truth, bound and estimate, in nats a token, as `evaluators.drift.token_kl` makes them."""
    truth = fmean(each.truth for each in answer)
    bound = fmean(lower_bound(each.served[top], each.other[top]) for each in answer)
    kl = fmean(estimate(each.served[top], each.other[top], each.token) for each in answer)
    return truth, bound, kl if temperature == 1.0 else max(kl, bound)


def shares_row(name: str, temperature: float, answers: Sequence[Answer], source: random.Random) -> str:
    """Return a line of the first table."""
    cells = [name, f"{temperature:g}", f"{len(answers)}"]
    truth = 0.0
    for top in TOPS:
        truths, *both = zip(*(means(each, top, temperature) for each in answers), strict=True)
        truth = fmean(truths)
        if top == TOPS[0]:
            cells.append(f"{truth:.3f}")
        for told in both:
            spread = stdev(mine - true for mine, true in zip(told, truths, strict=True)) / len(answers) ** 0.5
            cells.append(f"{fmean(told) / truth:.2f} ± {spread / truth:.2f}")
    estimates = [means(each, TOPS[-1], temperature)[2] for each in answers]
    held = 0
    for _ in range(ROUNDS):
        drawn = source.choices(estimates, k=SESSIONS)
        low, high = estimate_of([(str(at), value) for at, value in enumerate(drawn)], largest=SCALE).interval()
        held += low is not None and high is not None and low <= truth <= high
    return _line([*cells, f"{held / ROUNDS:.0%}"])


def verdicts_row(name: str, temperature: float, answers: Sequence[Answer], source: random.Random) -> str:
    """Return a line of the second table."""
    told = [means(each, TOPS[-1], temperature) for each in answers]
    truth = fmean(each[0] for each in told)
    cells = [name, f"{temperature:g}"]
    for share in LIMITS:
        found = [_verdict(told, share * truth, source) for _ in range(ROUNDS)]
        shown = []
        for label in (Verdict.FAIL, Verdict.PASS):
            after = [sessions for verdict, sessions in found if verdict is label]
            shown.append(f"{len(after) / ROUNDS:.0%}" + (f" ({median(after):.0f})" if after else ""))
        cells += shown
    return _line(cells)


def _verdict(told: Sequence[tuple[float, float, float]], limit: float, source: random.Random) -> tuple[Verdict, int]:
    """Judge answers as they are drawn until the gate decides; returns what it says and after how many sessions."""
    evidence = CriterionEvidence(criterion("kl", limit=limit), idle_seconds=0)
    for at in range(1, MAX_SESSIONS + 1):
        _, bound, kl = source.choice(told)
        drift = Drift(n_tokens=TOKENS, log_ratio=0.0, kl=kl, kl_bound=bound, moved_share=0.0, top1_agreement=1.0)
        evidence.add(
            ScoredPair(sample=str(at), alias=SUPPORT, kind=Kind.CANDIDATE, control="a", other="b", at=at, drift=drift)
        )
        if at % LOOK == 0:
            evidence.close(at + 1.0)
            label = evidence.classify().label
            if label is not Verdict.INCONCLUSIVE:
                return label, at
    return Verdict.INCONCLUSIVE, MAX_SESSIONS


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _title(cells: Sequence[str]) -> str:
    return _line(cells) + _line(["---"] * len(cells))


def tables(found: dict[tuple[str, str, float], list[Answer]]) -> str:
    """Return both tables, in Markdown."""
    of_shares = [f"{name} of {top}" for top in TOPS for name in ("bound", "estimate")]
    first = _title(["served → other", "T", "answers", "truth", *of_shares, "interval holds it"])
    second = _title(
        ["served → other", "T", *(f"{what} at {share:g} ×" for share in LIMITS for what in ("FAIL", "PASS"))]
    )
    source = random.Random(13)
    for (served, other, temperature), answers in found.items():
        name = f"{served} → {other}"
        first += shares_row(name, temperature, answers, source)
        second += verdicts_row(name, temperature, answers, source)
    return f"{first}\n{second}"


def main(arguments: Sequence[str]) -> None:
    """Draw answers of each version, score them on both sides, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.divergence", description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=16, help="to each of 8 prompts; at 0 one (default: %(default)s)")
    parser.add_argument("--temperature", type=float, nargs="+", default=TEMPERATURES, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="of the demo's models (default: the demo's own)")
    asked = parser.parse_args(arguments)

    def progress(step: str) -> None:
        sys.stderr.write(f"{step}\n")

    cache = asked.cache or load().cache_folder()
    base = demo_base(cache, progress=progress)
    adapters = demo_adapters(base, cache, [SUPPORT, BETTER, OVERFITTED], progress=progress)
    versions = Versions(base, adapters, asked.threads)
    found: dict[tuple[str, str, float], list[Answer]] = {}
    for temperature in asked.temperature:
        drawn: dict[str, list[tuple[int, list[list[int]]]]] = {}
        for served, other in PAIRS:
            progress(f"{served} → {other} at temperature {temperature:g}")
            if served not in drawn:
                drawn[served] = [
                    versions.draw(served, prompt, temperature, asked.answers, seed)
                    for seed, prompt in enumerate(PROMPTS)
                ]
            found[served, other, temperature] = [
                answer for length, rows in drawn[served] for answer in versions.scored(served, other, rows, length)
            ]
    sys.stdout.write(tables(found))


if __name__ == "__main__":
    main(sys.argv[1:])
