"""A client of a gateway's admin API, over the state folder's socket or the control port."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import click
import msgspec

from gateway.cli.options import fail, load_settings
from gateway.cli.output import print_json
from gateway.cli.progress import ProgressReport

# Long enough to load a large adapter from a slow disk on several engines; the control plane has limits of its own.
ANSWER_SECONDS = 300.0
CONTROL_SOCKET = "control.sock"
# Lines of JSON: progress reports of a long operation, then its result or its error (admin/adapters/api.py).
PROGRESS_TYPE = "application/x-ndjson"
# Entries per page: the most that the admin API returns at once.
_PAGE = 1000
_JSON = {"content-type": "application/json"}
T = TypeVar("T")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class NotRunning(Exception):
    """No gateway answers; the message names the address that was tried."""


class _Refusal(msgspec.Struct):
    message: str


class _Line(msgspec.Struct):
    """One line of the reply to a long operation; it has exactly one of these members."""

    progress: ProgressReport | None = None
    result: dict[str, Any] | None = None
    error: _Refusal | None = None


class AdminClient:
    """A connection to one gateway's control plane.

    Args:
        state: State folder of a gateway on this machine; None for the configured one.
        url: Control port of a gateway elsewhere; None for the socket in the state folder.
        key: Key for the control port.
    """

    def __init__(self, state: Path | None, url: str | None, key: str | None) -> None:
        import httpx  # imported late: importing it takes as long as starting `serve`

        self.state = load_settings(None, {"state": state}).state_folder()
        if key and not (key.isascii() and key.isprintable()):
            raise fail("the key holds a character that no key has, such as one that is not shown; copy it again")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._has_key = bool(key)
        if url is not None:
            self.where = url
            if not url.startswith(("http://", "https://")):
                raise fail(f"`{url}` is no URL; write http://HOST:PORT")
            try:
                self._client = httpx.Client(base_url=url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
            except httpx.InvalidURL as error:
                raise fail(f"`{url}` is no URL ({error}); write http://HOST:PORT") from None
        else:
            path = self.state / CONTROL_SOCKET
            self.where = str(path)
            transport = httpx.HTTPTransport(uds=str(path), verify=False)
            self._client = httpx.Client(
                base_url="http://control", headers=headers, transport=transport, timeout=ANSWER_SECONDS, trust_env=False
            )
        command = click.get_current_context(silent=True)
        if command is not None:
            command.call_on_close(self._client.close)

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Any:
        """Return the reply's JSON; end the command with the gateway's own message if it refuses.

        Raises:
            NotRunning: No gateway answers.
        """
        import httpx

        try:
            reply = self._client.request(method, path, content=_encode(body), headers={**_JSON, **headers})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotRunning(f"no gateway answers at {self.where} ({type(error).__name__})") from None
        except httpx.HTTPError as error:  # not NotRunning: a gateway runs, so callers must not write to its store
            raise fail(f"the gateway at {self.where} broke off ({type(error).__name__}); try again") from None
        try:
            answer = reply.json()
        except ValueError:
            raise fail(f"{self.where} answered {reply.status_code}, not as Loragate's control plane would") from None
        if reply.status_code == 401 and not self._has_key:
            raise fail(f"{self.where} asks for a key: give one of role viewer, operator or admin with --key")
        if reply.status_code >= 400:
            raise fail(answer.get("error", {}).get("message", f"the gateway answered {reply.status_code}"))
        return answer

    def follow(
        self, path: str, body: dict[str, Any], on_progress: Callable[[ProgressReport], None] | None
    ) -> dict[str, Any]:
        """Start a long operation, report its progress and return its result; end the command if it fails."""
        import httpx

        # Accept progress even if nothing shows it: the gateway notices a closed client, and cancels, only while it
        # writes progress.
        headers = {**_JSON, "accept": PROGRESS_TYPE}
        last = _Line()
        try:
            with self._client.stream("POST", path, content=_encode(body), headers=headers, timeout=None) as reply:
                for line in reply.iter_lines():
                    last = msgspec.json.decode(line, type=_Line)
                    if on_progress is not None and last.progress is not None:
                        on_progress(last.progress)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise fail(
                f"no gateway answers at {self.where} ({type(error).__name__}); "
                "start one with `loragate up`, or name it with --state or --control"
            ) from None
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise fail(f"the gateway at {self.where} broke off ({type(error).__name__}); try again") from None
        if last.error is not None:
            raise fail(last.error.message)
        if last.result is None:
            raise fail(f"{self.where} gave no result, as Loragate's control plane would")
        return last.result

    def ask_running(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Any:
        """Return the reply's JSON, as `ask` does; end the command with a hint if no gateway runs."""
        try:
            return self.ask(method, path, body, headers)
        except NotRunning as error:
            raise fail(f"{error}; start one with `loragate up`, or name it with --state or --control") from None


def admin_client(options: Mapping[str, Any]) -> AdminClient:
    """Return the client for a command's options `--state`, `--control` and `--key`."""
    return AdminClient(options["state"], options["control"], options["key"])


def fetch_all(ask: Callable[[str, str], Any], path: str, member: str, *, cursor: str = "after") -> list[dict[str, Any]]:
    """Return all entries of a paged list.

    Args:
        ask: `ask` or `ask_running` of a client.
        path: Path of the list, with its query if it has one.
        member: Member of a page that holds the entries.
        cursor: Query parameter that takes the page's `next`.
    """
    entries: list[dict[str, Any]] = []
    mark: str | None = ""
    while mark is not None:
        since = f"&{cursor}={quote(str(mark))}" if mark else ""
        page = ask("GET", f"{path}{'&' if '?' in path else '?'}limit={_PAGE}{since}")
        entries += page[member]
        mark = page["next"]
    return entries


def parse_reply(read: Callable[[Any], T], answer: Any) -> T:
    """Return a reply as the type that the API declares; end the command with what does not fit it."""
    try:
        return read(answer)
    except ValueError as error:  # includes pydantic's ValidationError
        raise fail(f"the gateway answered in another way than this release knows: {error}") from None


def segment(name: str) -> str:
    """Return a name quoted as one segment of a URL path; end the command if it is empty, `.` or `..`."""
    if name in ("", ".", ".."):
        raise fail(f"`{name}` is no name; give an alias, or a version such as support@3f2a9c81d0e4")
    return quote(name, safe="@", errors="surrogateescape")


def _encode(body: dict[str, Any] | None) -> bytes | None:
    import json

    # NaN passes here: the control plane refuses it, with a better message.
    return None if body is None else json.dumps(body).encode()


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    import json

    print_json(json.dumps(value, indent=2))
