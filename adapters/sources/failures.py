"""What can go wrong when an adapter is fetched: each error says what, the limit and the remedy.

    SourceError (a ValueError)
    ├── SourceNotAllowed     the allow-list, or the form of the source, forbids it
    ├── SourceNotFound       nothing there, or no adapter in it
    ├── SourceAmbiguous      several adapters in it, and none of them is the last one
    ├── PickledAdapter       the weights are pickled: reading them could run code
    ├── UnsafeArchive        a member that could write elsewhere, or a damaged archive
    ├── SourceTooLarge       more bytes or files than the limits allow
    ├── SourceUnavailable    the store does not answer, refuses access, or its library is missing
    │   └── TransientFault   as above, and worth another try (used inside this package)
    │       └── NoRanges     the server can only send a file from its beginning
    └── DigestMismatch       it is not the version that was asked for

Messages never hold the text of a store library's own errors: it may hold credentials.
"""


class SourceError(ValueError):
    """An adapter cannot be fetched; the message says why and what to do."""


class SourceNotAllowed(SourceError):
    """The source is not under the allow-list, or is not written as a source should be."""


class SourceNotFound(SourceError):
    """There is nothing at the source, or no adapter."""


class SourceAmbiguous(SourceError):
    """The source holds several adapters; the message lists them."""


class PickledAdapter(SourceError):
    """The adapter's weights are a pickle, which is never read."""


class UnsafeArchive(SourceError):
    """The archive is damaged, or has a member that must not be unpacked."""


class SourceTooLarge(SourceError):
    """The source exceeds a limit on bytes or files."""


class SourceUnavailable(SourceError):
    """The store cannot be reached, or refuses access."""


class TransientFault(SourceUnavailable):
    """The store failed in a way that may be temporary."""


class NoRanges(TransientFault):
    """The server cannot send a part of a file."""


class DigestMismatch(SourceError):
    """The fetched adapter has another digest than the expected one."""
