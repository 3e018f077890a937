"""One vLLM engine as a host of adapters: its HTTP API to load, unload, list and probe them."""

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

# How long a load may take: reading a few hundred MB from a slow disk; a small adapter takes 0.1 s.
LOAD_SECONDS: Final = 120.0
ASK_SECONDS: Final = 5.0
# How long a probe may take: it waits in the engine's queue with the users' requests, and for one of the few adapters of
# a batch to leave it. On a CPU with a second of work in each step, that took more than 30 s; an engine that is down is
# found in 5 s by its health check.
PROBE_SECONDS: Final = 120.0
# How long the request that runs beside a probe may take: until its first token, and then until the probe is over.
BESIDE_SECONDS: Final = 2 * PROBE_SECONDS
_BUSY: Final = (408, 429, 502, 503, 504)
# How many new connections look for a version that was just loaded. If a load balancer sends each connection to one of
# two engines at random, all four agree, so that it is not noticed, once in eight loads.
CONNECTIONS: Final = 4
AGAIN_SECONDS: Final = 0.2
UNLOADS: Final = 16
SEVERAL: Final = (
    "this address seems to be several engines, as connections to it see different adapters: name each engine by an "
    "address of its own"
)
# The largest list of models: some 25,000 models, as one of vLLM's cards has 600 bytes.
MAX_LIST: Final = 16 * 1024 * 1024
_MAX_FINGERPRINT: Final = 200

log = logging.getLogger("loragate.engines")


class ProblemKind(StrEnum):
    """Why an engine is not used; these are label values of a metric."""

    UNREACHABLE = "unreachable"  # it accepts no connection, or does not answer
    UNHEALTHY = "unhealthy"  # its health check answers with another status than 200
    UNAUTHORIZED = "unauthorized"  # it asks for a key, or rejects the one it was sent
    NO_MODELS = "no_models"  # it does not list its models
    ENDED = "ended"  # it was a process of this gateway, which has ended
    UNDECIDED = "undecided"  # it answers, but the gateway's base is not decided until all engines have been asked
    SEVERAL = "several_engines"  # several engines answer behind this one address, so it gets no adapters
    OTHER_BASE = "other_base"  # it answers, but serves another base than this gateway


class EngineDown(HostUnavailable):
    """The engine cannot be used; the message is the same as long as the cause is, so that it is logged only once."""

    def __init__(self, kind: ProblemKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class VllmHost:
    """One engine, reached through its HTTP API.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        access: The engine's API key and certificates.
    """

    def __init__(self, url: str, access: Access = OPEN) -> None:
        self.model = ""  # the base's name, which probes ask for; empty unless the engine serves this gateway's base
        self.root = ""  # the path or repository that the engine says it loaded its base from
        self.is_several = False  # several engines were found to answer behind this address
        self._url = url
        self._client = EngineClient(url, access)

    def close(self) -> None:
        self._client.close()

    async def check_health(self) -> None:
        """Ask the engine for its health.

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
        """Return the engine's base model.

        Raises:
            EngineDown: The engine does not answer, or lists no model.
        """
        base = (await self._models()).base
        if base is None:
            raise EngineDown(ProblemKind.NO_MODELS, "GET /v1/models: it lists no base model")
        self.root = base.root
        return base

    async def adapter_names(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""
        return (await self._models()).adapters

    async def load(self, version: str, folder: str) -> None:
        """Load an adapter's folder under the name `version`; it is no error if the engine has that name already."""
        reply = await self._post("/v1/load_lora_adapter", {"lora_name": version, "lora_path": folder}, LOAD_SECONDS)
        if reply.status == HTTPStatus.OK or "already been loaded" in reply.text():
            await self._check_is_one(version)
            return
        raise LoadRefused(f"the engine answered {reply.status}: {_message(reply)}")

    async def unload(self, version: str) -> None:
        """Unload `version`; it is no error if the engine does not have it."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)
        if self.is_several:
            await self._unload_everywhere(version)

    async def _unload_everywhere(self, version: str) -> None:
        """Unload a version from all engines behind a load balancer, by connecting again until none lists it."""
        with suppress(NoAnswer):
            for _ in range(UNLOADS):
                await self._client.post_anew("/v1/unload_lora_adapter", {"lora_name": version}, ASK_SECONDS)
                if not any(await self._check_visibility(version)):
                    return

    async def _check_is_one(self, version: str) -> None:
        """Check that new connections agree on whether a version that was just loaded is there.

        Raises:
            NotOneEngine: They disagree, twice in a row: several engines answer behind one address.
        """
        for pause in (AGAIN_SECONDS, 0.0):
            seen = await self._check_visibility(version)
            if all(seen) or not any(seen):
                self.is_several = False
                return
            await asyncio.sleep(pause)
        if not self.is_several:
            self.is_several = True
            log.warning("engine %s: %s", self._url, SEVERAL)
        raise NotOneEngine(SEVERAL)

    async def _check_visibility(self, version: str) -> list[bool]:
        """Return for each of some new connections that got an answer whether the version is listed in it."""
        questions = [self._client.get_anew("/v1/models", ASK_SECONDS, MAX_LIST) for _ in range(CONNECTIONS)]
        answers = await asyncio.gather(*questions, return_exceptions=True)
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
            ProbeRefused: It does not return log-probabilities.
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
            await self._check_is_one(model)  # only loaded versions are probed, so another engine may have answered
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
        """Generate `tokens` and discard them; set `started` at the first one, and stop when cancelled.

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
        started.set()  # in case that no token came: the caller must not wait for one

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
    engine = str(reply.get("system_fingerprint") or "")[:_MAX_FINGERPRINT].encode("ascii", "replace").decode()
    return Answers(engine=engine, tops=tuple(tops))


def _message(reply: Answer) -> str:
    try:
        body = reply.json()
    except ValueError:
        return reply.text()[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
