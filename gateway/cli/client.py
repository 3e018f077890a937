"""Talk to a running gateway's control plane, over its socket or its port."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import click

from gateway.cli.options import fail, load_settings
from gateway.cli.output import print_json

# Loading a large adapter on a slow disk, several engines; the control plane has its own limits.
ANSWER_SECONDS = 300.0
CONTROL_SOCKET = "control.sock"
# Lines of JSON that tell how far a long operation is (admin/adapters/api.py).
PROGRESS_TYPE = "application/x-ndjson"
# The most that the admin API gives at once.
_PAGE = 1000
_JSON = {"content-type": "application/json"}
T = TypeVar("T")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class NotRunning(Exception):
    """No gateway answers; the message says where it was looked for."""


class AdminClient:
    """The control plane of one gateway.

    Args:
        state: State folder of a gateway on this machine, if given.
        url, key: Control port of one elsewhere, and a key for it.
    """

    def __init__(self, state: Path | None, url: str | None, key: str | None) -> None:
        import httpx  # takes as long to import as `serve` to start

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
        """Return the answer's JSON; end with the gateway's own message if it refuses.

        Raises:
            NotRunning: Nobody answers.
        """
        import httpx

        try:
            reply = self._client.request(method, path, content=_packed(body), headers={**_JSON, **headers})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotRunning(f"no gateway answers at {self.where} ({type(error).__name__})") from None
        except httpx.HTTPError as error:  # it runs, so nothing may be written behind its back
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
        self, path: str, body: dict[str, Any], on_progress: Callable[[dict[str, Any]], None] | None
    ) -> dict[str, Any]:
        """Ask for a long operation and return its result, telling how far it is; end with its error if it fails."""
        import httpx
        import msgspec

        # Asked for even if nobody looks: only while it tells how far it is does the gateway see that we were stopped.
        headers = {**_JSON, "accept": PROGRESS_TYPE}
        answer: dict[str, Any] = {}
        try:
            with self._client.stream("POST", path, content=_packed(body), headers=headers, timeout=None) as reply:
                for line in reply.iter_lines():
                    answer = msgspec.json.decode(line, type=dict[str, Any])
                    if on_progress is not None and "progress" in answer:
                        on_progress(answer["progress"])
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise fail(
                f"no gateway answers at {self.where} ({type(error).__name__}); "
                "start one with `loragate up`, or name it with --state or --control"
            ) from None
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise fail(f"the gateway at {self.where} broke off ({type(error).__name__}); try again") from None
        if "error" in answer:
            raise fail(answer["error"]["message"])
        if "result" not in answer:
            raise fail(f"{self.where} gave no result, as Loragate's control plane would")
        result: dict[str, Any] = answer["result"]
        return result

    def ask_running(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Any:
        """Return the answer's JSON; end with a hint if no gateway runs."""
        try:
            return self.ask(method, path, body, headers)
        except NotRunning as error:
            raise fail(f"{error}; start one with `loragate up`, or name it with --state or --control") from None


def admin_client(options: Mapping[str, Any]) -> AdminClient:
    """Return the client that a command's options ask for: `state`, `control` and `key`."""
    return AdminClient(options["state"], options["control"], options["key"])


def every(ask: Callable[[str, str], Any], path: str, member: str, *, cursor: str = "after") -> list[dict[str, Any]]:
    """Return all entries of a list that comes in pages.

    Args:
        ask: `ask` or `ask_running` of a control plane.
        path: The list, with a query if it has one.
        member: Where the entries stand in a page.
        cursor: What the query calls the page's `next`.
    """
    entries: list[dict[str, Any]] = []
    mark: str | None = ""
    while mark is not None:
        since = f"&{cursor}={quote(str(mark))}" if mark else ""
        page = ask("GET", f"{path}{'&' if '?' in path else '?'}limit={_PAGE}{since}")
        entries += page[member]
        mark = page["next"]
    return entries


def typed(read: Callable[[Any], T], answer: Any) -> T:
    """Return an answer as the type that the API describes it by; end with what does not fit, if it is another."""
    try:
        return read(answer)
    except ValueError as error:  # pydantic's own is one
        raise fail(f"the gateway answered in another way than this release knows: {error}") from None


def segment(name: str) -> str:
    """Return a name as one segment of a path, whatever is in it; end with a hint if it is none."""
    if name in ("", ".", ".."):
        raise fail(f"`{name}` is no name; give an alias, or a version such as support@3f2a9c81d0e4")
    return quote(name, safe="@", errors="surrogateescape")


def _packed(body: dict[str, Any] | None) -> bytes | None:
    import json

    # ASCII, with NaN: what is wrong with a value, the control plane says best.
    return None if body is None else json.dumps(body).encode()


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    import json

    print_json(json.dumps(value, indent=2))
