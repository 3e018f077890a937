"""What the node needs to run the mirror and feedback: the policies that apply, and the figures that are exported."""

from gateway.mirror.feedback_service import FeedbackService
from gateway.mirror.intake import MirrorIntake
from gateway.observe.mirror_counts import MirrorCounts, MirrorReading, sum_copies
from gateway.records.routes import MirrorPolicy
from gateway.records.state import Desired

_DEFAULT = MirrorPolicy()


def policy_of(desired: Desired, alias: str) -> MirrorPolicy | None:
    """Return an alias's mirror policy, the default if its route has none; None without a route."""
    route = desired.route(alias)
    return None if route is None else route.mirror or _DEFAULT


def policies(desired: Desired) -> dict[str, MirrorPolicy]:
    """Return the mirror policy of every alias."""
    return {route.alias: route.mirror or _DEFAULT for route in desired.routes}


def mirror_reading(mirror: MirrorIntake, feedback: FeedbackService, of_workers: MirrorCounts) -> MirrorReading:
    """Return the mirror's and feedback's part of a scrape."""
    items, size = mirror.held
    counts = sum_copies((of_workers, mirror.counts, feedback.counts))
    if mirror.memory.expired:
        counts.drop("unclaimed", mirror.memory.expired)
    return MirrorReading(counts=counts, held_items=items, held_bytes=size)
