"""An engine as a holder of adapters: vLLM's load, unload and list."""

import asyncio
import math
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any, Final

from adapters.fingerprint import Answers, Top
from adapters.ports import HostUnavailable, LoadRefused
from adapters.prober import NotServed, ProbeRefused
from gateway.decide.route import Base
from gateway.serve.asking import Answer, EngineClient, NoAnswer

# Reading a few hundred MB from a slow disk; a load of a small adapter takes 0.1 s.
LOAD_SECONDS: Final = 120.0
ASK_SECONDS: Final = 5.0
# A probe waits in the engine's queue with the users' requests: a CPU reads a prompt of 1,000 tokens in 4 s.
PROBE_SECONDS: Final = 30.0
# A row that runs beside a probe: until its first token, and then until the probe is over.
BESIDE_SECONDS: Final = 2 * PROBE_SECONDS
# Figures beyond this are no times and no lengths, and a table with them could not be written.
_MOST_COUNTED: Final = 2**31
_BUSY: Final = (408, 429, 502, 503, 504)


class VllmHost:
    """One engine, asked through its own HTTP API.

    Args:
        url: `http://host:port`, or `unix:///path`.
    """

    def __init__(self, url: str) -> None:
        self.model = ""  # the engine's own name for its base, once it has told
        self.root = ""  # and where it loaded it from
        self._client = EngineClient(url)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            return (await self._client.get("/health", ASK_SECONDS)).status == HTTPStatus.OK
        except NoAnswer:
            return False

    async def base(self) -> Base:
        """Return the engine's own model.

        Raises:
            HostUnavailable: The engine does not answer, or lists no model.
        """
        for card in await self._cards():
            if not card.get("parent"):
                self.model, self.root = card["id"], str(card.get("root") or "")
                length = _count(card, "max_model_len") or None
                return Base(name=card["id"], created=_count(card, "created"), max_model_len=length)
        raise HostUnavailable("the engine lists no base model")

    async def loaded(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""
        return {card["id"] for card in await self._cards() if card.get("parent")}

    async def load(self, version: str, folder: str) -> None:
        """Load a folder under a name; it is no error if the engine has the name already."""
        reply = await self._post("/v1/load_lora_adapter", {"lora_name": version, "lora_path": folder}, LOAD_SECONDS)
        if reply.status == HTTPStatus.OK or "already been loaded" in reply.text():
            return
        raise LoadRefused(f"the engine answered {reply.status}: {_message(reply)}")

    async def unload(self, version: str) -> None:
        """Forget a name; it is no error if the engine does not know it."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)

    async def next_tokens(self, model: str, prompts: Sequence[str], *, top: int) -> Answers:
        """Return the `top` most likely next tokens after each prompt, asked in one request.

        Raises:
            HostUnavailable: The engine does not answer, or is too busy.
            NotServed: It does not serve the model.
            ProbeRefused: It will not say log-probabilities.
        """
        body = {
            "model": model, "prompt": list(prompts), "max_tokens": 1, "temperature": 0, "logprobs": top,
            "return_tokens_as_token_ids": True,  # texts of tokens are not unique
        }  # fmt: skip
        reply = await self._post("/v1/completions", body, PROBE_SECONDS)
        if reply.status != HTTPStatus.OK:
            raise _refusal(reply, model)
        try:
            return _answers(reply.json(), len(prompts))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ProbeRefused(
                f"the engine's answer to a probe of `{model}` holds no log-probabilities ({type(error).__name__}); "
                f"they are needed: let it have --max-logprobs {top} or more"
            ) from None

    async def generate(self, model: str, prompt: str, *, tokens: int, started: asyncio.Event) -> None:
        """Generate `tokens` and throw them away; set `started` at the first one, and stop when cancelled.

        Raises:
            HostUnavailable: The engine does not answer, or is too busy.
            ProbeRefused: It does not serve the model.
        """
        body = {
            "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip
        try:
            reply = await self._client.post("/v1/completions", body, BESIDE_SECONDS, on_part=started.set)
        except NoAnswer as error:
            raise _away(error) from None
        if reply.status != HTTPStatus.OK:
            raise _refusal(reply, model)
        started.set()  # nothing came: an engine that ends at once keeps nobody waiting

    async def _cards(self) -> list[dict[str, Any]]:
        try:
            reply = await self._client.get("/v1/models", ASK_SECONDS)
        except NoAnswer as error:
            raise HostUnavailable(f"the engine does not list its models: {error}") from None
        if reply.status != HTTPStatus.OK:
            raise HostUnavailable(f"the engine does not list its models: it answered {reply.status}")
        try:
            cards = reply.json()["data"]
            if all(isinstance(card["id"], str) and card["id"].encode() for card in cards):  # no half surrogate pairs
                return list(cards)
        except (ValueError, KeyError, TypeError) as error:
            raise HostUnavailable(f"the engine does not list its models ({type(error).__name__})") from None
        raise HostUnavailable("the engine lists models without names")

    async def _post(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        try:
            return await self._client.post(path, body, seconds)
        except NoAnswer as error:
            raise _away(error) from None


def _away(error: NoAnswer) -> HostUnavailable:
    return HostUnavailable(f"the engine does not answer: {error}")


def _refusal(reply: Answer, model: str) -> HostUnavailable | ProbeRefused:
    if reply.status in _BUSY:
        return HostUnavailable(f"the engine is busy ({reply.status})")
    kind = NotServed if reply.status == HTTPStatus.NOT_FOUND else ProbeRefused
    return kind(f"the engine answered {reply.status} to a probe of `{model}`: {_message(reply)}")


def _answers(reply: dict[str, Any], prompts: int) -> Answers:
    tops: list[Top] = [()] * prompts
    for choice in reply["choices"]:
        top = choice["logprobs"]["top_logprobs"][0]
        # JSON has no NaN: vLLM writes null.
        tops[choice["index"]] = tuple(
            (int(token.removeprefix("token_id:")), math.nan if each is None else float(each))
            for token, each in top.items()
        )
    if not all(tops):
        raise ValueError("a prompt has no answer")
    return Answers(engine=str(reply.get("system_fingerprint") or ""), tops=tuple(tops))


def _count(card: dict[str, Any], name: str) -> int:
    """Return a figure of a model's card; 0 where it is none that the route table can carry."""
    value = card.get(name)
    return value if type(value) is int and 0 <= value <= _MOST_COUNTED else 0


def _message(reply: Answer) -> str:
    try:
        body = reply.json()
    except ValueError:
        return reply.text()[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
