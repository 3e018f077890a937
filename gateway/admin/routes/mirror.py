"""A route's mirror policy as declared in a file, and written back into one.

mirror:
  share: 2%
  capture: full
  noise_share: 10%
  tokens_per_hour: 500000
  retention: 7d
  redact: [email, phone, "regex:CASE-[0-9]+"]
  judge: {url: "http://127.0.0.1:8080/v1", model: base, key_env: JUDGE_API_KEY, share: 20%, pairs_per_hour: 60}
  comparators: [exact, chrf, length_ratio]
"""

import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from gateway.admin.routes.values import Values
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.decide.sample import DEFAULT_NOISE_SHARE
from gateway.mirror.redactors import InvalidRedactor, check_name
from gateway.records.state import Capture, JudgePolicy, MirrorPolicy

MAX_RUBRIC: Final = 10_000
_KEYS: Final = (
    "share",
    "capture",
    "noise_share",
    "tokens_per_hour",
    "retention",
    "redact",
    "judge",
    "comparators",
)
_JUDGE_KEYS: Final = JudgePolicy.__struct_fields__
_URL: Final = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]{1,255}(?:/[A-Za-z0-9._~/%-]{0,255})?")
_MODEL: Final = re.compile(r"[^\s\x00-\x1f]{1,200}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_COMPARATOR: Final = re.compile(r"(?:score:)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60))


def read_mirror(values: Values, where: str, value: object) -> MirrorPolicy | None:
    """Return the mirror policy that `value` declares; what is wrong is noted in `values`."""
    given = values.mapping(where, value, "{share: 2%, capture: metrics_only}", _KEYS)
    if given is None:
        return None
    if given.get("share") is None:
        values.problems.append(f"{where}.share: is missing; say which share of requests, such as 2%")
    capture = given.get("capture", "full")
    if capture is False:  # what YAML reads `off` as
        capture = "off"
    if capture not in get_args(Capture):
        values.problem(f"{where}.capture", capture, f"one of {', '.join(get_args(Capture))}")
        capture = "full"
    return MirrorPolicy(
        share=values.share(f"{where}.share", given.get("share")),
        capture=capture,
        noise_share=values.share(f"{where}.noise_share", given.get("noise_share"), DEFAULT_NOISE_SHARE),
        tokens_per_hour=values.limit(f"{where}.tokens_per_hour", given.get("tokens_per_hour")),
        retention_seconds=values.seconds(f"{where}.retention", given.get("retention")),
        redact=_redactors(values, f"{where}.redact", given.get("redact")),
        judge=_judge(values, f"{where}.judge", given.get("judge")),
        comparators=_comparators(values, f"{where}.comparators", given.get("comparators")),
    )


def _redactors(values: Values, where: str, value: object) -> tuple[str, ...]:
    names = values.names(where, value, "[email, phone]") or ()
    for name in names:
        try:
            check_name(name)
        except InvalidRedactor as error:
            values.problems.append(f"{where}: {error}")
    return names


def _comparators(values: Values, where: str, value: object) -> tuple[str, ...] | None:
    names = values.names(where, value, "[exact, chrf]")
    for name in names or ():
        values.matching(where, name, _COMPARATOR, "a comparator's name")
    return names


def _judge(values: Values, where: str, value: object) -> JudgePolicy | None:
    given = values.mapping(where, value, "{url: http://127.0.0.1:8080/v1, model: base}", _JUDGE_KEYS)
    if given is None:
        return None
    key_env = given.get("key_env")
    return JudgePolicy(
        url=values.matching(
            f"{where}.url", given.get("url"), _URL, "a URL such as https://HOST/v1, without a user and a query"
        ).rstrip("/"),
        model=values.matching(f"{where}.model", given.get("model"), _MODEL, "a model's name"),
        key_env=values.matching(f"{where}.key_env", key_env, _VARIABLE, "an environment variable's name")
        if key_env not in (None, "")
        else "",
        rubric=values.text(f"{where}.rubric", given.get("rubric"), MAX_RUBRIC),
        share=values.share(f"{where}.share", given.get("share"), TOTAL_WEIGHT),
        pairs_per_hour=values.limit(f"{where}.pairs_per_hour", given.get("pairs_per_hour")),
    )


def written_mirror(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file has to say of a policy (JSON values), with nothing in it that goes without saying."""
    said = {"share": _share(policy["share"]), "capture": policy["capture"]}
    if policy.get("noise_share", DEFAULT_NOISE_SHARE) != DEFAULT_NOISE_SHARE:
        said["noise_share"] = _share(policy["noise_share"])
    if policy.get("tokens_per_hour") is not None:
        said["tokens_per_hour"] = policy["tokens_per_hour"]
    if policy.get("retention_seconds") is not None:
        said["retention"] = _time(policy["retention_seconds"])
    if policy.get("redact"):
        said["redact"] = list(policy["redact"])
    judge = policy.get("judge")
    if judge is not None:
        said["judge"] = {
            key: _share(each) if key == "share" else each
            for key, each in judge.items()
            if each not in (None, "") and (key, each) != ("share", TOTAL_WEIGHT)
        }
    if policy.get("comparators") is not None:
        said["comparators"] = list(policy["comparators"])
    return said


def shown_mirror(policy: Mapping[str, Any]) -> str:
    """Return a policy (JSON values) in a few words."""
    said = written_mirror(policy)
    words = [said["share"], said["capture"]]
    if "noise_share" in said:
        words.append(f"noise {said['noise_share']}")
    if "tokens_per_hour" in said:
        words.append(f"{said['tokens_per_hour']} tokens/h")
    if "retention" in said:
        words.append(f"kept {said['retention']}")
    if "redact" in said:
        words.append(f"without {' '.join(name[:40] for name in said['redact'])}")
    if "judge" in said:
        judge = said["judge"]
        shares = f" {judge['share']}" if "share" in judge else ""
        bound = f" {judge['pairs_per_hour']} pairs/h" if "pairs_per_hour" in judge else ""
        rubric = ", own rubric" if "rubric" in judge else ""
        words.append(f"judged by {judge['model']} at {judge['url']}{shares}{bound}{rubric}")
    if "comparators" in said:
        words.append(f"by {' '.join(said['comparators']) or 'no comparator'}")
    return ", ".join(words)


def _share(points: int) -> str:
    return f"{points / 100:g} %"


def _time(seconds: int) -> str:
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
