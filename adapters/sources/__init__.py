"""Fetch adapters from local folders, tar archives and object stores.

`allowed` decides where from, `layouts` finds the adapter inside what a trainer wrote, `store` is the one home of
fsspec, `download` goes on where it stopped, `archives` unpacks what is safe, `fetching` tells the whole story.
"""

from adapters.sources.allowed import Allowed
from adapters.sources.failures import (
    DigestMismatch,
    PickledAdapter,
    SourceAmbiguous,
    SourceError,
    SourceNotAllowed,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    UnsafeArchive,
)
from adapters.sources.fetching import discard, fetch, sweep
from adapters.sources.limits import FetchLimits

__all__ = [
    "Allowed",
    "DigestMismatch",
    "FetchLimits",
    "PickledAdapter",
    "SourceAmbiguous",
    "SourceError",
    "SourceNotAllowed",
    "SourceNotFound",
    "SourceTooLarge",
    "SourceUnavailable",
    "UnsafeArchive",
    "discard",
    "fetch",
    "sweep",
]
