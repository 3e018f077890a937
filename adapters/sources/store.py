"""Read object stores through fsspec: facts of a file, names in a folder, bytes from an offset.

This module is the only user of fsspec. It turns every error of a store's library into one of ours: a `TransientFault`
if it may be temporary, and without the original text, which may hold credentials.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from adapters.sources.failures import (
    NoRanges,
    SourceError,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnavailable,
    TransientFault,
)

# We retry ourselves; retries of botocore and s3fs would only multiply ours (25 a read, 11 s).
_S3_OPTIONS: Final = {"config_kwargs": {"retries": {"max_attempts": 0}}}
_INSTALL: Final = {
    "s3": "pip install 'loragate[s3]'",
    "s3a": "pip install 'loragate[s3]'",
    "http": "pip install aiohttp",
    "https": "pip install aiohttp",
}
# Fields that differ between two states of one object, most reliable first: S3 and HTTP, Google, Azure, others.
_IDENTITY_FIELDS: Final = (
    "ETag",
    "etag",
    "VersionId",
    "generation",
    "md5Hash",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)
# Errors of botocore and others, given by name because these modules need not be installed.
_CREDENTIAL_ERRORS: Final = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
# Retrying does not help against these: the request itself is at fault.
_PERMANENT: Final = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    ImportError,
    MemoryError,
)
_TRANSIENT_STATUSES: Final = (408, 425, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """An object in a store, as it was when it was looked up.

    Attributes:
        name: Its name below the store's URL; empty for the URL's own object.
        url: Its URL.
        path: The same, in the store's own form.
        size: Bytes; None if the store does not report it.
        identity: Changes when the content does; None if the store reports no such value.
    """

    name: str
    url: str
    path: str
    size: int | None
    identity: str | None


class ObjectStore:
    """One object store, at the place in it that a URL names.

    Raises:
        SourceNotAllowed: fsspec knows no such protocol.
        SourceUnavailable: Its library is not installed, or refuses its options.
    """

    def __init__(self, url: str, protocol: str, options: Mapping[str, Any]) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._is_http = protocol in ("http", "https")
        if protocol not in fsspec.available_protocols():
            raise SourceNotAllowed(f"`{url}`: no store of protocol `{protocol}` is known; `s3://` is")
        with _ours(url):
            try:
                fsspec.get_filesystem_class(protocol)
            except ImportError:
                remedy = _INSTALL.get(protocol, f"install fsspec's library for `{protocol}`")
                raise SourceUnavailable(f"`{url}` needs a library that is not installed: {remedy}") from None
            self._fs, self._root = fsspec.url_to_fs(self.url, **_options(protocol, options))
            if hasattr(self._fs, "retries"):
                self._fs.retries = 1
            # fsspec caches stores and their listings for the life of the process.
            self._fs.invalidate_cache()

    def can_list(self) -> bool:
        """Whether folders can be listed. HTTP cannot: fsspec would list the links of a web page."""
        return not self._is_http

    def file(self, name: str = "") -> RemoteFile:
        """Return the facts of the object itself, or of the one called `name` below it.

        Raises:
            SourceNotFound: There is no such object; a folder does not count as one.
        """
        url, path = (f"{self.url}/{name}", f"{self._root}/{name}") if name else (self.url, self._root)
        with _ours(url):
            info = self._fs.info(path)
        if info.get("type") == "directory":
            raise SourceNotFound(f"`{url}` is a folder; a file was expected")
        size = info.get("size")
        sign = next((f"{field}={info[field]}" for field in _IDENTITY_FIELDS if info.get(field)), None)
        return RemoteFile(
            name=name,
            url=url,
            path=path,
            size=size if isinstance(size, int) else None,
            identity=None if sign is None else f"{sign} size={size}",
        )

    def list_folder(self, folder: str) -> list[tuple[str, bool]]:
        """Return the names in a folder below the store's URL, and whether each is a folder.

        Raises:
            SourceNotFound: There is nothing there.
        """
        path = f"{self._root}/{folder}" if folder else self._root
        with _ours(f"{self.url}/{folder}".rstrip("/")):
            entries = self._fs.ls(path, detail=True)
        names = [(str(entry["name"]).rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in entries]
        # S3 may list an empty object that stands for the folder itself.
        itself = path.rstrip("/").rpartition("/")[2]
        return [(name, is_folder) for name, is_folder in names if is_folder or name not in ("", itself)]

    def pieces(self, file: RemoteFile, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` on, one ranged read at a time.

        Raises:
            TransientFault: The store broke off; the bytes so far are good.
            NoRanges: The store cannot begin at an offset.
        """
        at = offset
        # Without read-ahead, each read is one request for exactly these bytes, bound to the file's ETag on S3.
        # A block size of 0 asks HTTP for the whole file at once, because not every server supports ranges.
        how = {"block_size": 0} if self._is_http and offset == 0 else {"cache_type": "none"}
        with _ours(file.url):
            remote = self._fs.open(file.path, "rb", **how)
            if offset:
                remote.seek(offset)
        try:
            while file.size is None or at < file.size:
                wanted = chunk_bytes if file.size is None else min(chunk_bytes, file.size - at)
                with _ours(file.url, is_ranged=self._is_http and offset > 0):
                    piece = remote.read(wanted)
                if not piece:
                    break
                at += len(piece)
                yield piece
        finally:
            with _ours(file.url):
                remote.close()
        if file.size is not None and at < file.size:
            raise TransientFault(f"`{file.url}` ended after {at} of {file.size} bytes")


class _Redirected(ConnectionError):
    """A web server redirects, perhaps to a place outside of the allow-list."""


async def _refuse_redirect(response: Any) -> None:
    if 300 <= response.status < 400:
        raise _Redirected


def _options(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if protocol in ("s3", "s3a"):
        return {**_S3_OPTIONS, **given}
    if protocol in ("http", "https"):
        session = {**given.get("client_kwargs", {}), "raise_for_status": _refuse_redirect}
        return {"allow_redirects": False, **given, "client_kwargs": session}
    return dict(given)


@contextmanager
def _ours(url: str, *, is_ranged: bool = False) -> Iterator[None]:
    """Turn a store library's errors into ours."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001  # each store's library has its own error classes
        if is_ranged and type(error) is ValueError:  # fsspec's HTTP store raises this when the answer is the whole file
            raise NoRanges(f"`{url}`: its server cannot go on with a file that was begun") from None
        raise _translate(error, url) from None


def _translate(error: Exception, url: str) -> SourceError:
    cause = error.__cause__
    if isinstance(error, _Redirected) or isinstance(cause, _Redirected):
        return SourceNotAllowed(f"`{url}` redirects elsewhere; give the address that it leads to, if that is allowed")
    status = getattr(error, "status", None) or getattr(cause, "status", None)
    # fsspec's HTTP store raises FileNotFoundError for any failure to connect.
    is_permanent = isinstance(error, _PERMANENT)
    is_connection = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    if isinstance(error, FileNotFoundError) and is_connection and status != 404:
        is_permanent = isinstance(cause, _PERMANENT)
    kind = type(error if is_permanent or cause is None else cause).__name__
    if isinstance(error, PermissionError) or status in (401, 403) or kind in _CREDENTIAL_ERRORS:
        return SourceUnavailable(
            f"`{url}`: access denied ({kind}); give credentials that may read it, for S3 in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE, …) or as `anon: true`"
        )
    if isinstance(status, int) and status != 404:
        is_transient = status >= 500 or status in _TRANSIENT_STATUSES
        return (TransientFault if is_transient else SourceUnavailable)(f"`{url}`: the store answered {status}")
    if isinstance(error, FileNotFoundError) and is_permanent:
        return SourceNotFound(f"`{url}` does not exist; check its spelling")
    if is_permanent:
        return SourceUnavailable(
            f"`{url}`: the store's library refused ({kind}); check the URL and the setting for its store's options"
        )
    return TransientFault(f"`{url}`: the store does not answer ({kind}); check that it is up and can be reached")
