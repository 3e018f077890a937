"""The fake engine inside one event loop: its models, its counters, and the answer to every request.

Knows what vLLM answers on which path; not sockets (`body.py`), not bodies (`replies.py`, `streams.py`).
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from tests.fakes import replies
from tests.fakes.generate import Answer
from tests.fakes.knobs import FIELD, HEADER, Knobs
from tests.fakes.pace import PACE
from tests.fakes.plan import GENERATION, Plan, Route, generation, prompts_of, whole
from tests.fakes.ticker import Ticker
from tests.fakes.weights import BASE, next_tokens, weights_of
from tests.fakes.wire import Connection, Received

VERSION = "0.32.0"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_PLANS = 64  # bodies whose plan is remembered: a load generator sends the same few again and again
_BY_TOKEN_ID = "return_tokens_as_token_ids"
_CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


class Core:
    """The engine inside one event loop: models, counters, and the answer to every request."""

    def __init__(
        self,
        model: str,
        adapters: Mapping[str, str],
        knobs: Knobs,
        *,
        keep: int,
        check_folders: bool,
        max_cpu_loras: int | None = None,
        more_names: Sequence[str] = (),
        root: str = "",
        key: str = "",
        prefix: str = "",
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.loads = 0
        self.ticker = Ticker(self.loop)
        self.model = model
        self.names = (model, *more_names)
        self.root = root
        self.key = key
        self.prefix = prefix
        self.adapters = dict(adapters)
        self.max_cpu_loras = max_cpu_loras
        self._weights: dict[str, str] = {}  # of the adapters in memory, the least recently used first
        self._adapting: set[Received] = set()  # running requests that an adapter answers
        self._asked = 0
        self.knobs = self._first_knobs = knobs
        self.check_folders = check_folders
        self.requests: deque[Received] = deque(maxlen=keep)
        self.keep = keep
        self.failures: deque[int] = deque()
        self.load_failures: deque[int] = deque()
        self.held: list[Callable[[], None]] = []
        self.connections: set[Connection] = set()
        self.running = self.aborted = self.completed = self.accepted = 0
        self._plans: dict[tuple[str, bytes], Plan] = {}
        for name in self.adapters:
            self.weights(name)

    # Host, for the connections
    def opened(self, connection: Connection) -> None:
        self.accepted += 1
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def ended(self, request: Received, how: str) -> None:
        request.ended = how
        if request.method != "POST":
            return
        self.running -= 1
        self._adapting.discard(request)
        if how == "aborted":
            self.aborted += 1
        elif how == "complete":
            self.completed += 1

    def slowness(self, knobs: Knobs) -> float:
        """Return the seconds by which the next answer is late; 0 but for the knobs' share of answers."""
        if not knobs.slow_share:
            return 0.0
        self._asked += 1
        # Multiples of the golden ratio: evenly spread, in no order, and the same in every run.
        return knobs.slow_ms / 1000.0 if self._asked * 0.6180339887 % 1.0 < knobs.slow_share else 0.0

    def hold(self, then: Callable[[], None]) -> None:
        """Do something at the next `release`."""
        self.held.append(then)

    def release(self) -> None:
        """Do what was held until now."""
        held, self.held = self.held, []
        for then in held:
            then()

    def answer(self, request: Received) -> Plan:
        """Return what to send for `request`, which counts as running from here on if it is work: no poll is."""
        self.running += request.method == "POST"
        if self.keep:
            self.requests.append(request)
        if self.prefix and not request.target.startswith(f"{self.prefix}/"):
            return whole(404, b"<html>no such place", kind=b"text/html")
        request.target = request.target.removeprefix(self.prefix)
        is_open = not request.target.startswith("/v1/") or not self.key
        if not is_open and request.header("authorization") != f"Bearer {self.key}":
            return whole(401, b'{"error":"Unauthorized"}')
        if self.failures and request.method == "POST":
            status = self.failures.popleft()
            return whole(status, replies.error(status, f"The fake engine was told to fail with {status}."))
        plan = self._plan_once(request)
        if plan.model in self.adapters:
            self._adapting.add(request)
        return plan

    def _plan_once(self, request: Received) -> Plan:
        key = (request.target, request.body)
        plan = self._plans.get(key)
        if plan is not None and (plan.model in self.names or plan.model in self.adapters):
            return plan
        plan = self._plan(request)
        is_told = any(name == HEADER for name, _ in request.headers) or _BY_TOKEN_ID.encode() in request.body
        if plan.model is not None and not is_told:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _plan(self, request: Received) -> Plan:
        path = request.target.partition("?")[0]
        if request.method in ("GET", "HEAD"):
            return self._get(path)
        posts = {
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/fake/knobs": self._turn,
        }
        if request.method != "POST" or (path not in GENERATION and path not in posts):
            return whole(404, b'{"detail":"Not Found"}')
        try:
            body = msgspec.json.decode(request.body)
            if not isinstance(body, dict):
                raise msgspec.DecodeError("the body is not an object")
            changes = body if path == "/fake/knobs" else body.get(FIELD) or {}
            for name, value in request.headers:
                if name == HEADER:
                    changes = changes | msgspec.json.decode(value)
            knobs = self.knobs.with_(changes) if changes else self.knobs
        except (ValueError, TypeError) as error:
            message = f"[{{'type': 'json_invalid', 'loc': ('body', 0), 'msg': '{error}'}}]"
            return whole(400, replies.error(400, message, "Bad Request"))
        if path in posts:
            return posts[path](body)
        model = body.get("model") or self.model
        if model not in self.names and model not in self.adapters:
            return whole(404, replies.unknown_model(model))
        if path == "/v1/completions" and body.get(_BY_TOKEN_ID) and body.get("logprobs") and not body.get("stream"):
            return generation(Route(self._next_tokens(knobs), None, "prompt"), model, body, knobs)
        if knobs.failing and model == knobs.failing:
            knobs = replace(knobs, status=500)
        if knobs.no_priorities and body.get("priority"):
            message = f"Got priority {body['priority']} but Priority scheduling is not enabled."
            return whole(400, replies.error(400, message))
        if knobs.no_ids:
            body.pop("return_token_ids", None)
        if knobs.lossy and path == "/detokenize":
            body["tokens"] = [*body.get("tokens", []), 32]
        return generation(GENERATION[path], model, body, knobs)

    def _next_tokens(self, knobs: Knobs) -> Callable[[str, Mapping[str, Any], Sequence[Answer]], bytes]:
        """Return how probes are answered: by the weights that the engine holds under the model's name."""

        def reply(model: str, body: Mapping[str, Any], _answers: Sequence[Answer]) -> bytes:
            weights = BASE if model in self.names else self.weights(model)
            if knobs.mixes_adapters and model in self.names and self._adapting:
                weights = self.weights(list(self.adapters)[-1])
            if knobs.swapped and model.startswith(f"{knobs.swapped}@"):
                weights = f"not {weights}"
            base = knobs.other_base or self.model
            tops = [next_tokens(base, weights, str(each), body["logprobs"]) for each in prompts_of(body)]
            if knobs.jitter or knobs.shift:
                tops = [
                    tuple((token, each + knobs.shift + self._noise(knobs.jitter)) for token, each in top)
                    for top in tops
                ]
            return replies.next_tokens(tops, knobs.system_fingerprint, model, body)

        return reply

    def _noise(self, jitter: float) -> float:
        self._asked += 1
        return jitter * math.sin(self._asked * self._asked)  # scattered over [-1, 1], and the same in every run

    def weights(self, name: str) -> str:
        """Return the weights under `name`, which are read from its folder unless they are in memory."""
        if name not in self._weights:
            self.loads += 1
            if self.max_cpu_loras is not None and len(self._weights) >= self.max_cpu_loras:
                del self._weights[next(iter(self._weights))]
        known = self._weights.pop(name, None)
        self._weights[name] = weights_of(self.adapters[name]) if known is None else known
        return self._weights[name]

    def _get(self, path: str) -> Plan:
        if path in ("/health", "/ping"):
            return whole(self.knobs.status, b"")
        if path == "/version":
            return whole(200, replies.encode({"version": VERSION}))
        if path == "/v1/models":
            more = (self.names[1:], self.root) if self.names[1:] or self.root else ()
            return whole(200, replies.models(self.model, self.adapters, *more))
        if path == "/tokenizer_info":
            info = {"tokenizer_class": "FakeTokenizer", "chat_template": _CHAT_TEMPLATE, "eos_token": "</s>"}
            return whole(200, replies.encode(info))
        if path == "/metrics":
            return whole(200, self._metrics(), kind=_TEXT)
        if path == "/load":
            return whole(200, replies.encode({"server_load": self.running + self.knobs.server_load}))
        if path in GENERATION:
            return whole(405, b'{"detail":"Method Not Allowed"}')
        return whole(404, b'{"detail":"Not Found"}')

    def _metrics(self) -> bytes:
        labels = f'{{engine="0",model_name="{self.model}"}}'
        running = self.running - 1  # this scrape is not a generation
        return (
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {float(running)}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{labels} {float(self.knobs.waiting)}\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\n"
            f"vllm:kv_cache_usage_perc{labels} {self.knobs.kv_usage}\n"
        ).encode()

    def _load(self, body: Mapping[str, Any]) -> Plan:
        name, path = body.get("lora_name"), body.get("lora_path")
        if self.load_failures:
            return whole(500, replies.error(self.load_failures.popleft(), "The fake engine was told to fail to load."))
        if not name or not path:
            return _refused(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name == self.model:
            return _refused(400, f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.adapters and not body.get("load_inplace"):
            hint = "If you want to load the adapter in place, set 'load_inplace' to True."
            return _refused(400, f"The lora adapter '{name}' has already been loaded. {hint}")
        if self.check_folders and not os.path.isdir(path):
            return whole(404, replies.error(404, f"Loading lora {name} failed: No adapter found for {path}"))
        added = whole(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), kind=b"text/plain")
        if self.knobs.held_loads:
            self.hold(partial(self._add, name, path))
            return replace(added, knobs=replace(added.knobs, held=True))
        if not self.knobs.load_seconds:
            self._add(name, path)
            return added
        self.loop.call_later(PACE * self.knobs.load_seconds, self._add, name, path)
        return replace(added, wait_seconds=self.knobs.load_seconds + 0.001)

    def _add(self, name: str, path: str) -> None:
        self.adapters[name] = path
        self._weights.pop(name, None)
        self.weights(name)

    def _unload(self, body: Mapping[str, Any]) -> Plan:
        name = body.get("lora_name")
        if not name:
            return _refused(400, "'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in self.adapters:
            return whole(404, replies.error(404, f"The lora adapter '{name}' cannot be found."))
        del self.adapters[name]
        self._weights.pop(name, None)
        return whole(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), kind=b"text/plain")

    def _turn(self, body: Mapping[str, Any]) -> Plan:
        """Set the process's knobs to its first ones with `body`: some proxies drop a request's `fake` field."""
        self.set_knobs(self._first_knobs.with_(body))
        return whole(200, b"{}")

    def set_knobs(self, knobs: Knobs) -> None:
        """Change the defaults of all requests from now on."""
        self.knobs = knobs
        self._plans.clear()


def _refused(status: int, message: str) -> Plan:
    return whole(status, replies.error(status, message, "InvalidUserInput"))
