"""An engine as a holder of adapters: vLLM's load, unload and list, over httpx."""

from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from adapters.loader import HostUnavailable, LoadRefused
from gateway.decide.route import Base

# Reading a few hundred MB from a slow disk; a load of a small adapter takes 0.1 s.
LOAD_SECONDS: Final = 120.0
ASK_SECONDS: Final = 5.0


class VllmHost:
    """One engine, asked through its own HTTP API.

    Args:
        url: `http://host:port`, or `unix:///path`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # Engines speak plain HTTP (settings.py); reading all certificates for TLS takes 50 ms of the start.
        transport = httpx.AsyncHTTPTransport(uds=parts.path if parts.scheme == "unix" else None, verify=False)
        base_url = "http://engine" if parts.scheme == "unix" else url
        self._client = httpx.AsyncClient(base_url=base_url, transport=transport, timeout=ASK_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            return (await self._client.get("/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def base(self) -> Base:
        """Return the engine's own model.

        Raises:
            HostUnavailable: The engine does not answer, or lists no model.
        """
        for card in await self._cards():
            if not card.get("parent"):
                return Base(name=card["id"], created=card.get("created") or 0, max_model_len=card.get("max_model_len"))
        raise HostUnavailable("the engine lists no base model")

    async def loaded(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""
        return {card["id"] for card in await self._cards() if card.get("parent")}

    async def load(self, version: str, folder: str) -> None:
        """Load a folder under a name; it is no error if the engine has the name already."""
        reply = await self._post("/v1/load_lora_adapter", {"lora_name": version, "lora_path": folder}, LOAD_SECONDS)
        if reply.status_code == httpx.codes.OK or "already been loaded" in reply.text:
            return
        raise LoadRefused(f"the engine answered {reply.status_code}: {_message(reply)}")

    async def unload(self, version: str) -> None:
        """Forget a name; it is no error if the engine does not know it."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)

    async def _cards(self) -> list[dict[str, Any]]:
        try:
            reply = await self._client.get("/v1/models")
            reply.raise_for_status()
            cards = reply.json()["data"]
            if all(isinstance(card["id"], str) for card in cards):
                return list(cards)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise HostUnavailable(f"the engine does not list its models ({type(error).__name__})") from None
        raise HostUnavailable("the engine lists models without names")

    async def _post(self, path: str, body: dict[str, str], seconds: float) -> httpx.Response:
        try:
            return await self._client.post(path, json=body, timeout=seconds)
        except httpx.HTTPError as error:
            raise HostUnavailable(f"the engine does not answer ({type(error).__name__})") from None


def _message(reply: httpx.Response) -> str:
    try:
        body = reply.json()
    except ValueError:
        return reply.text[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
