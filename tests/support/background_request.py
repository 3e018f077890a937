"""An operation of the admin API that is under way while a test does something else, such as killing the gateway."""

import contextlib
import threading
import time
from typing import Any

import httpx

from tests.support.gateways import RunningGateway


class Work:
    """A POST in a thread of its own.

    Args:
        gateway: Whom to ask.
        path: What for.
        body: As JSON.
    """

    def __init__(self, gateway: RunningGateway, path: str, body: dict[str, Any]) -> None:
        self._gateway, self._path, self._body = gateway, path, body
        self.reply: httpx.Response | None = None
        """None while it is under way, and if the gateway has died meanwhile."""
        self.seconds = 0.0
        """What it took until there was a reply."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        with contextlib.suppress(httpx.HTTPError):
            self.reply = self._gateway.admin("POST", self._path, self._body)
            self.seconds = time.monotonic() - began

    def is_over_after(self, seconds: float) -> bool:
        """Wait for so long at most; whether it was over by then."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self) -> None:
        """Wait for its end."""
        self._thread.join()
