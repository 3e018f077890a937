"""From YAML or JSON values, or one line of text, to a plan; every problem is reported at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from evaluators.judge.criteria import REGISTERED
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates import GATES, kind_of
from gateway.rollout.gates.gate import Gate, GateKind, GateSource
from gateway.rollout.plan import ALPHA, BUDGET, IDLE_SECONDS, MAX_TIME_SECONDS, MIN_SAMPLES, SHARE, Plan, Stage
from gateway.rollout.plan_values import DEFAULT_TIME, NotReadable, seconds_of, share_of, values_of, weight_of

T = TypeVar("T")

MAX_SECONDS: Final = 365 * 24 * 3600
MAX_SAMPLES: Final = 1_000_000_000
# A ramp longer than this is a mistake; Argo's and Flagger's examples have 5 to 10 steps.
MAX_STEPS: Final = 100
DEFAULT_GATES: Final = ("error_rate", "latency")
# What is wrong whatever an adapter was trained for, and can be seen without a judge, a schema or an extra: it
# fails, refuses, repeats itself, or does not come to an end, more often than the control does. How far it has
# drifted is told beside that, and decides nothing: a limit that fits depends on what the adapter is for.
DEFAULT_SHADOW_GATES: Final = ("failed", "refusal", "repetition", "truncated", {"kl": {"muted": True}})

_PLAN_KEYS: Final = ("shadow", "steps", "gates", "audit", "alpha")
_SHADOW_KEYS: Final = ("pairs", "max_pairs", "share", "idle", "min_time", "max_time", "gates")
_STEP_KEYS: Final = ("weight", "min_time", "max_time", "min_samples", "max_samples", "gates", "share", "idle")
_FLAGS: Final = ("critical", "muted")
# Of gates on counts alone: one account may decide it.
_SINGLE_ACCOUNT: Final = "single_account"
# Of the same: how many times the control's share is fine, in place of a margin; beyond 100 times nothing is compared.
_RATIO: Final = "ratio"
MAX_TIMES: Final = 100
_LEAST: Final = "min_samples"


class InvalidPlan(ValueError):
    """A plan with problems, all of them in `problems`, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def parse_plan(values: object) -> Plan:
    """Return the plan that YAML or JSON values, or one line of text, describe.

    Args:
        values: A mapping as in the module's example, or text such as
            `shadow 500 pairs → 1 % 10 min → 5 % → 100 %`.

    Raises:
        InvalidPlan: Every problem, each with its place, the value and what is allowed.
    """
    if isinstance(values, str):
        try:
            values = values_of(values)
        except NotReadable as error:
            raise InvalidPlan([str(error)]) from None
    if not isinstance(values, Mapping):
        raise InvalidPlan([f"a plan is a mapping or one line of text, not `{values!r}`"])
    reader = _Reader()
    plan = reader.plan(values)
    if reader.problems:
        raise InvalidPlan(reader.problems)
    return plan


class _Reader:
    """Reads values and collects problems; a value with a problem is replaced by its default."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def plan(self, values: Mapping[Any, Any]) -> Plan:
        """Return the plan; it is to be used only if no problem was found."""
        self._keys("plan", values, _PLAN_KEYS)
        is_known = "gates" in values
        default = self._gates("gates", values["gates"], None) if is_known else None
        stages: list[Stage] = []
        shadow = values.get("shadow")
        mirrored = (SHARE, IDLE_SECONDS)
        if isinstance(shadow, Mapping):
            stages.append(self._shadow(shadow))
            mirrored = (stages[0].share, stages[0].idle_seconds)
        elif shadow is not None:
            self._problem("shadow", shadow, "a mapping such as {pairs: 500}")
        steps = values.get("steps")
        if steps is None:
            steps = []
        if not isinstance(steps, list | tuple) or len(steps) > MAX_STEPS:
            self._problem("steps", steps, f"a list of at most {MAX_STEPS} steps")
            steps = []
        elif not steps and shadow is None:
            self.problems.append("plan: has neither `shadow` nor `steps`: nothing would be done")
        ramp = [self._step(f"steps[{at}]", step, default, mirrored) for at, step in enumerate(steps)]
        self._check_weights_rise(ramp)
        promotes = bool(ramp) and ramp[-1].weight == TOTAL_WEIGHT
        alpha = self._read("alpha", values.get("alpha"), share_of, ALPHA)
        if not 0 < alpha < 1:
            self._problem("alpha", values["alpha"], "a chance between 0 and 1, such as 1%")
        return Plan(
            stages=(*stages, *ramp[: len(ramp) - promotes]),
            promotes=promotes,
            needs_audit=self._flag("audit", values.get("audit")),
            alpha=alpha,
        )

    def _shadow(self, values: Mapping[Any, Any]) -> Stage:
        self._keys("shadow", values, _SHADOW_KEYS)
        shortest, longest = self._times("shadow", values)
        if "pairs" not in values:
            self.problems.append("shadow.pairs: is missing; say how many pairs to compare, such as 500")
        pairs = self._count("shadow.pairs", values.get("pairs"), MIN_SAMPLES, least=1)
        most = self._count("shadow.max_pairs", values.get("max_pairs"), min(MAX_SAMPLES, BUDGET * pairs), least=1)
        if most < pairs:
            self._problem("shadow.max_pairs", values["max_pairs"], f"at least pairs ({pairs})")
        gates = self._gates("shadow.gates", values.get("gates", DEFAULT_SHADOW_GATES), is_shadow=True)
        share, idle = self._pair_settings("shadow", values, (SHARE, IDLE_SECONDS))
        return Stage(
            weight=0,
            min_seconds=shortest,
            max_seconds=longest,
            min_samples=pairs,
            max_samples=most,
            gates=gates,
            share=share,
            idle_seconds=idle,
        )

    def _pair_settings(self, where: str, values: Mapping[Any, Any], default: tuple[int, int]) -> tuple[int, int]:
        """Return the share that is compared, and after how long a session ends."""
        share, idle = default
        if "share" in values:
            share = self._weight(f"{where}.share", values["share"])
        if "idle" in values:
            idle = self._time(f"{where}.idle", values["idle"], idle)
            if idle == 0:
                self._problem(f"{where}.idle", values["idle"], "at least 1s")
        return share, idle

    def _step(self, where: str, values: object, default: tuple[Gate, ...] | None, mirrored: tuple[int, int]) -> Stage:
        if not isinstance(values, Mapping):
            self._problem(where, values, "a mapping such as {weight: 5%, min_time: 10m}")
            return Stage(weight=-1)
        self._keys(where, values, _STEP_KEYS)
        weight = self._weight(f"{where}.weight", values.get("weight"))
        if weight == TOTAL_WEIGHT:
            for key in (key for key in _STEP_KEYS[1:] if key in values):
                self.problems.append(f"{where}.{key}: a step of 100 % is the promotion itself and takes weight alone")
            return Stage(weight=weight)
        shortest, longest = self._times(where, values)
        least = self._count(f"{where}.min_samples", values.get("min_samples"), MIN_SAMPLES)
        most = values.get("max_samples")
        if most is not None and self._count(f"{where}.max_samples", most, MAX_SAMPLES) < max(1, least):
            self._problem(f"{where}.max_samples", most, f"at least min_samples ({least}), and 1")
        if default is None or "gates" in values:
            default = self._gates(f"{where}.gates", values.get("gates", DEFAULT_GATES), is_shadow=False)
        share, idle = self._pair_settings(where, values, mirrored)
        if not any(gate.source is GateSource.PAIRS for gate in default):
            for key in (key for key in ("share", "idle") if key in values):
                self.problems.append(f"{where}.{key}: no gate of this step reads pairs, so nothing is compared in it")
            share = idle = 0
        return Stage(
            weight=weight,
            min_seconds=shortest,
            max_seconds=longest,
            min_samples=least,
            max_samples=most,
            gates=default,
            share=share,
            idle_seconds=idle,
        )

    def _check_weights_rise(self, ramp: Sequence[Stage]) -> None:
        highest = 0
        for at, step in enumerate(ramp):
            if step.weight < 0:
                continue  # told already
            if step.weight <= highest and at:
                self.problems.append(
                    f"steps[{at}].weight: `{step.weight / 100:g} %` does not rise above {highest / 100:g} %"
                )
            highest = max(highest, step.weight)

    def _weight(self, where: str, value: object) -> int:
        try:
            weight = weight_of(value)
        except NotReadable:
            weight = -1
        if not 0 < weight <= TOTAL_WEIGHT:
            self._problem(where, value, "above 0 % up to 100 %, such as 5%, or whole basis points in 1..10000")
            return -1
        return weight

    def _times(self, where: str, values: Mapping[Any, Any]) -> tuple[int, int]:
        shortest = self._time(f"{where}.min_time", values.get("min_time"), 0 if where == "shadow" else DEFAULT_TIME)
        longest = self._time(
            f"{where}.max_time", values.get("max_time"), min(MAX_SECONDS, max(MAX_TIME_SECONDS, 2 * shortest))
        )
        if longest < max(1, shortest):
            self._problem(f"{where}.max_time", values["max_time"], f"at least min_time ({shortest} s), and 1 s")
        return shortest, longest

    def _time(self, where: str, value: object, default: int) -> int:
        seconds = self._read(where, value, seconds_of, default)
        if not 0 <= seconds <= MAX_SECONDS:
            self._problem(where, value, "between 0s and 365d")
            return default
        return seconds

    def _count(self, where: str, value: object, default: int, least: int = 0) -> int:
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SAMPLES:
            self._problem(where, value, f"a whole number in {least}..{MAX_SAMPLES}")
            return default
        return value

    def _flag(self, where: str, value: object) -> bool:
        if value is not None and not isinstance(value, bool):
            self._problem(where, value, "true or false")
        return value is True

    def _gates(self, where: str, values: object, is_shadow: bool | None) -> tuple[Gate, ...]:
        if isinstance(values, Mapping):
            values = [{name: parameters} for name, parameters in values.items()]
        if not isinstance(values, list | tuple):
            self._problem(where, values, f"a list of {', '.join(GATES)}")
            return ()
        gates = [self._gate(f"{where}[{at}]", value, is_shadow) for at, value in enumerate(values)]
        names = [gate.name for gate in gates if gate is not None]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problems.append(f"{where}: `{name}` stands there more than once")
        return tuple(gate for gate in gates if gate is not None)

    def _gate(self, where: str, value: object, is_shadow: bool | None) -> Gate | None:
        name, parameters = value, None
        if isinstance(value, Mapping) and len(value) == 1:
            name, parameters = next(iter(value.items()))
        kind = kind_of(name) if isinstance(name, str) else None
        if kind is None or not isinstance(name, str):
            self._problem(where, name, f"one of {', '.join(GATES)}, {REGISTERED}NAME")
            return None
        if is_shadow and kind.needs_live_traffic:
            self.problems.append(f"{where}: `{name}` needs live traffic, which a candidate in shadow does not have")
        allowed_keys = () if kind.source is GateSource.PERSON else (*kind.defaults, *_FLAGS)
        if kind.source is GateSource.COUNTS:
            allowed_keys = (*allowed_keys, _RATIO, _SINGLE_ACCOUNT)
        if parameters is not None and not isinstance(parameters, Mapping):
            self._problem(f"{where}.{name}", parameters, f"a mapping with {', '.join(allowed_keys) or 'nothing'}")
            return None
        parameters = parameters or {}
        self._keys(f"{where}.{name}", parameters, allowed_keys)
        return self._read_gate(f"{where}.{name}", name, kind, parameters)

    def _read_gate(self, where: str, name: str, kind: GateKind, parameters: Mapping[Any, Any]) -> Gate:
        read = {
            each: self._share(f"{where}.{each}", parameters.get(each), default, kind.scale)
            for each, default in kind.defaults.items()
            if each != _LEAST
        }
        if kind.source is GateSource.PAIRS and parameters.get("limit") is None and parameters.get("margin") is not None:
            read["limit"] = None  # of the two that which is given holds, not the other's default
        least, ratio = kind.defaults.get(_LEAST), self._ratio(where, parameters)
        return Gate(
            name=name,
            margin=0.0 if ratio is not None else read.get("margin") or 0.0,
            limit=read.get("limit"),
            quantile=read.get("quantile"),
            ratio=ratio,
            min_samples=None
            if least is None
            else self._count(f"{where}.{_LEAST}", parameters.get(_LEAST), int(least), 1),
            is_critical=parameters.get("critical") is None or self._flag(f"{where}.critical", parameters["critical"]),
            is_muted=self._flag(f"{where}.muted", parameters.get("muted")),
            may_rest_on_one=self._flag(f"{where}.{_SINGLE_ACCOUNT}", parameters.get(_SINGLE_ACCOUNT)),
        )

    def _ratio(self, where: str, parameters: Mapping[Any, Any]) -> float | None:
        value = parameters.get(_RATIO)
        if value is None:
            return None
        if parameters.get("margin"):
            self.problems.append(f"{where}: give `margin` or `ratio`; each says how much worse than control is fine")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_TIMES:
            self._problem(f"{where}.{_RATIO}", value, f"a number in 1..{MAX_TIMES}: how many times the control's share")
            return None
        return float(value)

    def _share(self, where: str, value: object, default: float | None, scale: float = 1.0) -> float | None:
        if value is None:
            return default
        share = self._read(where, value, share_of, 0.5)
        least_is_open = where.endswith("quantile")
        if not 0 <= share < scale or (least_is_open and share == 0):
            expected = "a share from 0 % to below 100 %, such as 1%" if scale == 1 else f"a number in 0..{scale:g}"
            self._problem(where, value, expected)
        return share

    def _read(self, where: str, value: object, read: Callable[[object], T], default: T) -> T:
        if value is None:
            return default
        try:
            return read(value)
        except NotReadable as error:
            self._problem(where, value, str(error))
            return default

    def _keys(self, where: str, values: Mapping[Any, Any], allowed_keys: tuple[str, ...]) -> None:
        for key in values:
            if key not in allowed_keys:
                self.problems.append(f"{where}.{key}: is not known; known are {', '.join(allowed_keys) or 'none'}")

    def _problem(self, where: str, value: object, expected: str) -> None:
        shown = repr(value) if not isinstance(value, str) else value
        self.problems.append(f"{where}: `{shown[:80]}` is not {expected}")
