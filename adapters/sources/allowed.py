"""Decide whether a source may be fetched: whatever is not under the allow-list is refused.

Paths are compared after symbolic links and `..` are resolved, URLs as they are written. Both are compared by whole
folder names: `s3://models/loras-evil` is not under `s3://models/loras`.
"""

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from adapters.sources.failures import SourceNotAllowed

SETTING: Final = "adapters.sources"
# The longest source. Stores allow nearly any object name, but adapters need no longer one than a path.
MAX_SOURCE: Final = 2_000
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
# How often a URL is decoded: more layers of `%25` than any chain of servers decodes.
_MAX_DECODINGS: Final = 8
_LOCAL_SCHEMES: Final = ("file", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The sources that adapters may come from.

    Attributes:
        prefixes: URLs and absolute folders; a source must be one of them or below one.
        any_local: Whether any local folder may be read, listed or not.
        storage_options: Options of fsspec's stores by protocol, such as
            `{"s3": {"endpoint_url": "http://…", "anon": True}}`. Credentials come from the environment.

    Raises:
        SourceNotAllowed: A prefix is neither a URL nor an absolute folder.
    """

    prefixes: tuple[str, ...] = ()
    any_local: bool = False
    storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse a prefix that could never match, or would match everything."""
        for prefix in self.prefixes:
            if not prefix.startswith("/") and _SCHEME.fullmatch(prefix) is None:
                raise SourceNotAllowed(
                    f"`{prefix}` in the setting `{SETTING}` is neither a URL such as `s3://bucket/loras/` "
                    "nor an absolute folder"
                )


def local_path(source: str) -> Path | None:
    """Return the path of a local source, or None for a source elsewhere.

    Raises:
        SourceNotAllowed: It is a relative path, or is not a source.
    """
    _check_characters(source)
    match = _SCHEME.fullmatch(source)
    if match is not None and match[1] in _LOCAL_SCHEMES:
        source, match = match[2], None
    if match is not None:
        return None
    if not source.startswith("/"):
        raise SourceNotAllowed(f"`{source}` is neither an absolute path nor a URL such as `s3://bucket/folder/`")
    return Path(source)


def check_local(path: Path, allowed: Allowed) -> Path:
    """Return the path with all symbolic links resolved, if it may be read.

    Raises:
        SourceNotAllowed: It is under no folder of the allow-list.
    """
    resolved = _real(path)
    if allowed.any_local or any(resolved.is_relative_to(folder) for folder in _folders(allowed)):
        return resolved
    raise SourceNotAllowed(
        f"`{path}` is not under a folder that adapters may come from; move it there, or add its folder to the setting "
        f"`{SETTING}`"
    )


def check_url(url: str, allowed: Allowed) -> str:
    """Return the protocol of a URL that may be fetched.

    Raises:
        SourceNotAllowed: It is under no prefix of the allow-list, or has parts that no adapter's URL needs.
    """
    match = _SCHEME.fullmatch(url)
    protocol, rest = match.groups() if match else ("", "")
    authority = rest.partition("/")[0]
    if "@" in authority and ":" in authority.rpartition("@")[0]:
        # The message does not repeat the source, which would end up in logs and in the catalog.
        raise SourceNotAllowed("the source holds a password; leave it out: credentials come from the environment")
    # After our comparison, servers and libraries resolve `..`, and fsspec takes `a::b` as a chain of stores.
    if "::" in url or _may_lead_elsewhere(rest):
        raise SourceNotAllowed(
            f"`{url}` holds `..`, `.`, `\\` or `::`, spelled out or encoded (`%2e`, `%252e`); write the plain URL"
        )
    if "?" in url or "#" in url:
        raise SourceNotAllowed(f"`{url.partition('?')[0]}` is followed by `?` or `#`; write the plain URL")
    if any(is_under(url, prefix) for prefix in allowed.prefixes):
        return protocol
    raise SourceNotAllowed(
        f"`{url}` is not under a URL that adapters may come from; add its prefix to the setting `{SETTING}`"
    )


def _real(path: Path) -> Path:
    """Return a path with its links resolved as far as possible; a cycle of links is reported when it is read."""
    return Path(os.path.realpath(path))


def _may_lead_elsewhere(rest: str) -> bool:
    """Whether a server could take a part of a URL for another folder, however often it decodes it."""
    for _ in range(_MAX_DECODINGS):
        # Some servers take `\\` for `/`, drop what follows `;` in a part, or take Unicode look-alikes for ASCII.
        plain = unicodedata.normalize("NFKC", rest)
        parts = [part.partition(";")[0].strip() for part in plain.replace("\\", "/").split("/")]
        if "\\" in plain or not plain.isprintable() or any(part in (".", "..") for part in parts):
            return True
        before, rest = rest, unquote(rest)
        if rest == before:
            return False
    return True  # no honest name is encoded that often


def is_under(url: str, prefix: str) -> bool:
    """Whether `url` is `prefix` or below it, compared by whole folder names."""
    prefix = prefix.rstrip("/")
    return url.rstrip("/") == prefix or url.startswith(prefix + "/")


def _folders(allowed: Allowed) -> list[Path]:
    return [_real(path) for prefix in allowed.prefixes if (path := local_path(prefix)) is not None]


def _check_characters(source: str) -> None:
    if not source or len(source) > MAX_SOURCE or not source.isprintable():
        raise SourceNotAllowed(
            f"the source `{source[:80]!r}` is empty, longer than {MAX_SOURCE} characters, or holds control "
            "characters; give an absolute path or a URL"
        )
