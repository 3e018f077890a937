"""Fetch adapters from local folders, tar archives and object stores.

`fetching` runs one fetch from start to end. `allowed` decides whether a source may be read, `layouts` finds the adapter
inside what a trainer wrote, `store` is the only user of fsspec, `download` resumes broken downloads, `archives` unpacks
the members that are safe.
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
