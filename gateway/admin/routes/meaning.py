"""Describe in plain words what a change of a route means for its traffic."""

from itertools import pairwise

from gateway.admin.routes.policies import share
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.records.routes import RouteRecord


def meaning_of(before: RouteRecord, after: RouteRecord) -> tuple[str, ...]:
    """Return a sentence for each effect that a change of a route has on its traffic."""
    sentences = []
    if _split(before) != _split(after):
        sentences.append(_moves(before, after))
    if before.unit != after.unit:
        sentences.append(_other_units(before, after))
    if before.mirror != after.mirror:
        sentences.append(_copies(after))
    if before.plan != after.plan:
        sentences.append(
            "only the next rollout goes by the plan"
            if after.plan is not None
            else "the next rollout goes by the default plan, if it is given none"
        )
    if before.limits != after.limits:
        sentences.append(
            "requests beyond the limits are refused from now on"
            if after.limits is not None
            else "the alias has no limits of its own any more"
        )
    if before.engine_fields != after.engine_fields:
        sentences.append("other fields of requests reach engines; see docs/security.md")
    return tuple(sentences) or ("nothing changes for traffic",)


def arms(route: RouteRecord) -> str:
    """Return in words which versions serve an alias."""
    if not route.weight:
        return f"all by {route.control}"
    if route.weight == TOTAL_WEIGHT:
        return f"all by candidate {route.candidate}"
    return f"about {share(route.weight)} of units by candidate {route.candidate}, the others by {route.control}"


def _copies(route: RouteRecord) -> str:
    """Return in words which requests are copied for evaluators, and whether their words are stored."""
    policy = route.mirror
    if policy is not None and policy.capture == "off":
        return "no requests are copied for evaluators, for a rollout neither"
    if policy is None or not policy.share:
        return "no copies of requests are asked for any more, except by rollouts"
    other = f"candidate {route.candidate}" if route.candidate is not None else "the base"
    storage = "their words are stored until they expire" if policy.capture == "full" else "their words are not stored"
    return (
        f"copies of about {share(policy.share)} of requests are asked for, to be compared with {other}; {storage}, "
        "and callers notice nothing"
    )


def _other_units(before: RouteRecord, after: RouteRecord) -> str:
    if not 0 < after.weight < TOTAL_WEIGHT:
        return "the next split goes by other ids; now nobody changes arms for it"
    if not 0 < before.weight < TOTAL_WEIGHT:
        return "the split goes by these ids from its beginning"
    return "units are hashed anew by other ids, so callers may change arms"


def _split(route: RouteRecord) -> tuple[str, str | None, int]:
    return route.control, route.candidate, route.weight


def _moves(before: RouteRecord, after: RouteRecord) -> str:
    """Return in words how many units move to another version.

    The candidate owns the buckets [0, weight), so the numbers are exact in basis points.
    """
    moved: dict[tuple[str, str], int] = {}
    edges = sorted({0, before.weight, after.weight, TOTAL_WEIGHT})
    for low, high in pairwise(edges):
        (old_arm, old), (new_arm, new) = (_at(route, low) for route in (before, after))
        if old != new:
            move = (f"{old_arm} {old}", f"{new_arm} {new}")
            moved[move] = moved.get(move, 0) + high - low
    if not moved:
        return "no unit gets another version by it"
    if sum(moved.values()) == TOTAL_WEIGHT and len(moved) == 1:
        (source, target), _ = moved.popitem()
        return f"all callers change version now, from {source} to {target}"
    phrases = [
        f"about {share(points)} of units move from {source} to {target}" for (source, target), points in moved.items()
    ]
    return "; ".join((*phrases, "the others stay")) if sum(moved.values()) < TOTAL_WEIGHT else "; ".join(phrases)


def _at(route: RouteRecord, bucket: int) -> tuple[str, str]:
    """Return the arm and the version that own a bucket."""
    if bucket < route.weight and route.candidate is not None:
        return "candidate", route.candidate
    return "control", route.control
