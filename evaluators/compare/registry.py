"""The registry of comparators: the built-in ones and plugins of installed distributions.

A plugin is an entry point of the group `loragate.comparators`: a `Comparator`, or a class that makes one without
arguments. Its metric is named `score:` plus the plugin's name, so that it never replaces a built-in comparator.
`comparator_problems` reports plugins that cannot be used. A plugin that raises, or returns an invalid score, gives an
`Unscored`. No function of this module raises.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, cast

from evaluators.compare.chrf import CHRF
from evaluators.compare.comparator import Comparator, Direction, Reason, Shape
from evaluators.compare.edit import EDIT
from evaluators.compare.embedding import EMBEDDING
from evaluators.compare.exact import EXACT
from evaluators.compare.expected import EXPECTED
from evaluators.compare.finish_reason import FINISH_REASON
from evaluators.compare.itl import ITL
from evaluators.compare.json_valid import JSON_VALID
from evaluators.compare.language import LANGUAGE
from evaluators.compare.length_ratio import LENGTH_RATIO
from evaluators.compare.refusal import REFUSAL
from evaluators.compare.repetition import REPETITION
from evaluators.compare.rouge_l import ROUGE_L
from evaluators.compare.tokens import TOKENS
from evaluators.compare.tool_calls import TOOL_CALLS
from evaluators.compare.truncated import TRUNCATED
from evaluators.compare.ttft import TTFT
from evaluators.observation import Outcome, Pair, Score, Unscored

GROUP: Final = "loragate.comparators"
PLUGIN_PREFIX: Final = "score:"
BUILT_IN: Final[tuple[Comparator, ...]] = (
    EXACT,
    EDIT,
    CHRF,
    ROUGE_L,
    EMBEDDING,
    LENGTH_RATIO,
    TOOL_CALLS,
    LANGUAGE,
    FINISH_REASON,
    TTFT,
    ITL,
    TOKENS,
    REFUSAL,
    REPETITION,
    JSON_VALID,
    TRUNCATED,
    EXPECTED,
)
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,64}")
# A plugin's reason is stored beside scores and may label a metric: one word only, so that it cannot hold prompt text.
_REASON: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
OTHER_REASON: Final = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The comparators by their metric's name, and the problems of unusable plugins by theirs."""

    comparators: Mapping[str, Comparator]
    broken: Mapping[str, str]


def comparators() -> Mapping[str, Comparator]:
    """Return every comparator by its metric's name; plugins are loaded once in a process."""
    return _load_installed().comparators


def comparator_problems() -> Mapping[str, str]:
    """Return the problem of each plugin that cannot be used, by its metric's name."""
    return _load_installed().broken


@cache
def _load_installed() -> Loaded:
    return load_comparators(entry_points(group=GROUP))


def load_comparators(plugins: Iterable[EntryPoint]) -> Loaded:
    """Return the built-in comparators, those of the given plugins, and the problems of plugins that cannot be used."""
    found = {comparator.name: comparator for comparator in BUILT_IN}
    broken: dict[str, str] = {}
    for plugin in plugins:
        name = PLUGIN_PREFIX + plugin.name
        if name in found or name in broken:
            found.pop(name, None)
            broken[name] = "is provided by more than one distribution; uninstall all but one"
            continue
        try:
            made = plugin.load()
            comparator = made() if isinstance(made, type) else made
            problem = _problem(plugin.name, comparator)
        except Exception as error:  # noqa: BLE001  # a plugin may do anything, and must not stop the others
            problem = f"cannot be loaded: {type(error).__name__}"
        if problem:
            broken[name] = problem
        else:
            found[name] = cast(Comparator, comparator)
    return Loaded(comparators=MappingProxyType(found), broken=MappingProxyType(broken))


def _problem(name: str, comparator: object) -> str | None:
    if not _NAME.fullmatch(name):
        return f"is called `{name}`; a name of at most 64 of a-z 0-9 _ . - is expected"
    own = getattr(comparator, "name", None)
    if own != name:
        return f"says that its name is `{own}`; `{name}` is expected, as its entry point says"
    if not isinstance(getattr(comparator, "version", None), str):
        return "has no `version`; a string is expected"
    if getattr(comparator, "shape", None) not in tuple(Shape):
        return f"has no `shape`; one of {', '.join(Shape)} is expected"
    if getattr(comparator, "direction", None) not in tuple(Direction):
        return f"has no `direction`; one of {', '.join(Direction)} is expected"
    return None if callable(getattr(comparator, "score", None)) else "has no method `score`"


def compare_all(
    pair: Pair, names: Collection[str] | None = None, known: Mapping[str, Comparator] | None = None
) -> dict[str, Outcome]:
    """Return the comparators' outcomes for a pair, by the metric's name. Never raises.

    Args:
        pair: The two answers.
        names: Names of the metrics to compare by; None means all. An unknown one gets `not_installed`.
        known: The available comparators; those of this process unless given.
    """
    there = comparators() if known is None else known
    return {name: _outcome(there.get(name), pair) for name in (there if names is None else dict.fromkeys(names))}


def _outcome(comparator: Comparator | None, pair: Pair) -> Outcome:
    if comparator is None:
        return Unscored(reason=Reason.NOT_INSTALLED.value, version="")
    try:
        outcome = comparator.score(pair)
        version = comparator.version
        if isinstance(outcome, Unscored):
            return outcome if _REASON.fullmatch(outcome.reason) else Unscored(reason=OTHER_REASON, version=version)
        if not isinstance(outcome, Score):
            raise TypeError("neither a Score nor an Unscored")
        if comparator.shape == Shape.DIFFERENCE and (outcome.control is None or outcome.candidate is None):
            raise TypeError("a difference without both arms' numbers")
    except Exception as error:  # noqa: BLE001  # one comparator that fails must not stop the others
        return Unscored(reason=f"failed:{type(error).__name__}"[:64], version=str(getattr(comparator, "version", "")))
    return outcome
