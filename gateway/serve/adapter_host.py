"""An engine as a holder of adapters: vLLM's load, unload and list."""

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from adapters.fingerprint import Answers, Top
from adapters.ports import HostUnavailable, LoadRefused, NotOneEngine
from adapters.prober import NotServed, ProbeRefused
from gateway.decide.route import Base
from gateway.engine_address import OPEN, Access
from gateway.serve.engine_client import Answer, EngineClient, NoAnswer
from gateway.serve.model_list import Models, read_models

# Reading a few hundred MB from a slow disk; a load of a small adapter takes 0.1 s.
LOAD_SECONDS: Final = 120.0
ASK_SECONDS: Final = 5.0
# A probe waits in the engine's queue with the users' requests, and for one of the few adapters of a batch to leave it.
# On a CPU with a second of work in each step, that took more than 30 s; an engine that is down is found in 5 s by its
# health check.
PROBE_SECONDS: Final = 120.0
# A row that runs beside a probe: until its first token, and then until the probe is over.
BESIDE_SECONDS: Final = 2 * PROBE_SECONDS
_BUSY: Final = (408, 429, 502, 503, 504)
# A list of some 25,000 models; one of vLLM's cards has 600 bytes.
# How many new connections look for a version that was just loaded; a balancer over two engines that leads each
# connection to either at random hides from all of them once in eight loads.
CONNECTIONS: Final = 4
AGAIN_SECONDS: Final = 0.2
UNLOADS: Final = 16
SEVERAL: Final = (
    "this address seems to be several engines, as connections to it see different adapters: name each engine by an "
    "address of its own"
)
MAX_LIST: Final = 16 * 1024 * 1024
_MAX_FINGERPRINT: Final = 200


log = logging.getLogger("loragate.engines")


class ProblemKind(StrEnum):
    """Why an engine is not used; label values of a metric."""

    UNREACHABLE = "unreachable"  # no connection, or no answer
    UNHEALTHY = "unhealthy"  # its health check answers with another status than 200
    UNAUTHORIZED = "unauthorized"  # it wants a key, or another one
    NO_MODELS = "no_models"  # it does not list its models
    ENDED = "ended"  # the process that this gateway runs
    UNDECIDED = "undecided"  # it answers, and other engines have not been asked yet which base they serve
    SEVERAL = "several_engines"  # it answers, and so does another behind the same address: it gets no adapters
    OTHER_BASE = "other_base"  # it answers, and serves another base than this gateway


class EngineDown(HostUnavailable):
    """The engine cannot be used; the message says why, in words that stay the same while the cause does."""

    def __init__(self, kind: ProblemKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class VllmHost:
    """One engine, asked through its own HTTP API.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        access: What opens it.
    """

    def __init__(self, url: str, access: Access = OPEN) -> None:
        self.model = ""  # the name of its base that probes ask for, once it is known to be the right one
        self.root = ""  # where it says that it loaded its base from
        self.is_several = False  # it has been found to be several engines behind one address
        self._url = url
        self._client = EngineClient(url, access)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def check_health(self) -> None:
        """Ask for its health.

        Raises:
            EngineDown: It does not answer, or not with 200.
        """
        try:
            status = (await self._client.get("/health", ASK_SECONDS)).status
        except NoAnswer as error:
            raise EngineDown(ProblemKind.UNREACHABLE, f"GET /health: {error}") from None
        if status != HTTPStatus.OK:
            raise EngineDown(
                _kind_of(status, ProblemKind.UNHEALTHY), f"GET /health: it answered {status}{_hint(status)}"
            )

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            await self.check_health()
        except EngineDown:
            return False
        return True

    async def base(self) -> Base:
        """Return the engine's own model.

        Raises:
            EngineDown: The engine does not answer, or lists no model.
        """
        base = (await self._models()).base
        if base is None:
            raise EngineDown(ProblemKind.NO_MODELS, "GET /v1/models: it lists no base model")
        self.root = base.root
        return base

    async def loaded(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""
        return (await self._models()).adapters

    async def load(self, version: str, folder: str) -> None:
        """Load a folder under a name; it is no error if the engine has the name already."""
        reply = await self._post("/v1/load_lora_adapter", {"lora_name": version, "lora_path": folder}, LOAD_SECONDS)
        if reply.status == HTTPStatus.OK or "already been loaded" in reply.text():
            await self._check_is_one(version)
            return
        raise LoadRefused(f"the engine answered {reply.status}: {_message(reply)}")

    async def unload(self, version: str) -> None:
        """Forget a name; it is no error if the engine does not know it."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)
        if self.is_several:
            await self._unload_everywhere(version)

    async def _unload_everywhere(self, version: str) -> None:
        """Have it forgotten behind a balancer, wherever that leads."""
        with suppress(NoAnswer):
            for _ in range(UNLOADS):
                await self._client.post_anew("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)
                if not any(await self._seen(version)):
                    return

    async def _check_is_one(self, version: str) -> None:
        """Look whether new connections see a version that the engine has just taken.

        Raises:
            NotOneEngine: Some do and some do not, and not for a moment only.
        """
        for pause in (AGAIN_SECONDS, 0.0):
            seen = await self._seen(version)
            if all(seen) or not any(seen):
                self.is_several = False
                return
            await asyncio.sleep(pause)
        if not self.is_several:
            self.is_several = True
            log.warning("engine %s: %s", self._url, SEVERAL)
        raise NotOneEngine(SEVERAL)

    async def _seen(self, version: str) -> list[bool]:
        """Return, for each of some new connections that were answered, whether the version is listed there."""
        asked = [self._client.get_anew("/v1/models", ASK_SECONDS, MAX_LIST) for _ in range(CONNECTIONS)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        seen = []
        for answer in answers:
            with suppress(ValueError):
                if isinstance(answer, Answer) and answer.status == HTTPStatus.OK:
                    seen.append(version in read_models(answer.body).adapters)
        return seen

    async def next_tokens(self, model: str, prompts: Sequence[str], *, top: int) -> Answers:
        """Return the `top` most likely next tokens after each prompt, asked in one request.

        Raises:
            HostUnavailable: The engine does not answer, or is too busy.
            NotServed: It does not serve the model.
            ProbeRefused: It will not say log-probabilities.
        """
        body = {
            "model": model,
            "prompt": list(prompts),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": top,
            "return_tokens_as_token_ids": True,  # texts of tokens are not unique
        }
        reply = await self._post("/v1/completions", body, PROBE_SECONDS)
        if reply.status == HTTPStatus.NOT_FOUND and "@" in model:
            await self._check_is_one(model)  # it was loaded, or it would not be asked for
        if reply.status != HTTPStatus.OK:
            raise _refusal(reply, model)
        try:
            return _answers(reply.json(), len(prompts))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
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
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            reply = await self._client.post("/v1/completions", body, BESIDE_SECONDS, on_part=started.set)
        except NoAnswer as error:
            raise _away(error) from None
        if reply.status != HTTPStatus.OK:
            raise _refusal(reply, model)
        started.set()  # nothing came: an engine that ends at once keeps nobody waiting

    async def _models(self) -> Models:
        try:
            reply = await self._client.get("/v1/models", ASK_SECONDS, MAX_LIST)
        except NoAnswer as error:
            raise EngineDown(ProblemKind.UNREACHABLE, f"GET /v1/models: {error}") from None
        status = reply.status
        if status != HTTPStatus.OK:
            raise EngineDown(
                _kind_of(status, ProblemKind.NO_MODELS), f"GET /v1/models: it answered {status}{_hint(status)}"
            )
        try:
            return read_models(reply.body)
        except ValueError as error:
            raise EngineDown(ProblemKind.NO_MODELS, f"GET /v1/models: {error}") from None

    async def _post(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        try:
            return await self._client.post(path, body, seconds)
        except NoAnswer as error:
            raise _away(error) from None


def _kind_of(status: int, otherwise: ProblemKind) -> ProblemKind:
    is_about_the_key = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return ProblemKind.UNAUTHORIZED if is_about_the_key else otherwise


def _hint(status: int) -> str:
    return ": it wants a key, or another one (engine_key_env)" if status in (401, 403) else ""


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
    told = str(reply.get("system_fingerprint") or "")[:_MAX_FINGERPRINT].encode("ascii", "replace").decode()
    return Answers(engine=told, tops=tuple(tops))


def _message(reply: Answer) -> str:
    try:
        body = reply.json()
    except ValueError:
        return reply.text()[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
