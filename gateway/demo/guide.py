"""Starts a gateway for the demo, and uses it from outside as operators and callers do: by commands and over HTTP.

Nothing here uses the gateway's internals: `loragate up` starts it.
"""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import httpx

from gateway.settings import Settings, child_environment
from loragate import child_command

ENGINE_SECONDS: Final = 600.0
REPLY_SECONDS: Final = 300.0


class DemoFailed(Exception):
    """A step of the demo failed; the message says which, and why."""


class Guide:
    """A client of the running gateway: sends requests, runs commands, reads the admin API and the metrics."""

    def __init__(self, state: Path, url: str, control_url: str, key: str) -> None:
        self.state = state
        self.url = url
        self.control_url = control_url
        self.key = key
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=REPLY_SECONDS, trust_env=False)

    def loragate(self, *arguments: str) -> str:
        """Run a `loragate` command on this gateway, and return its output."""
        return run_loragate(self.state, *arguments)

    def ask(self, model: str, question: str) -> str:
        """Send a question to a model, and return its reply."""
        reply = self._client.post("/v1/chat/completions", json=body_of(model, question))
        if reply.status_code != httpx.codes.OK:
            raise DemoFailed(f"`{model}` answered {reply.status_code}: {reply.text[:300]}")
        return str(reply.json()["choices"][0]["message"]["content"])

    def stream(self, model: str, question: str) -> Iterator[str]:
        """Send a question to a model, and yield its reply piece by piece."""
        with self._client.stream("POST", "/v1/chat/completions", json=body_of(model, question, stream=True)) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise DemoFailed(f"the stream broke off: {event['error']['message']}")
                    yield from (choice["delta"].get("content") or "" for choice in event["choices"])

    def admin(self, path: str) -> dict[str, Any]:
        """Return the admin API's answer to GET `path`, over the socket in the state folder."""
        transport = httpx.HTTPTransport(uds=str(self.state / "control.sock"))
        with httpx.Client(transport=transport, timeout=REPLY_SECONDS) as client:
            reply = client.get(f"http://control/admin/v1/{path}")
        if reply.status_code != httpx.codes.OK:
            raise DemoFailed(f"the control plane answered {reply.status_code} to `{path}`: {reply.text[:300]}")
        answer: dict[str, Any] = reply.json()
        return answer

    def base(self) -> str:
        """Return the base model's name."""
        models: list[dict[str, Any]] = self._client.get("/v1/models").json()["data"]
        return next(str(model["id"]) for model in models if model["parent"] is None)

    def tokens(self) -> dict[str, int]:
        """Return the number of generated tokens by version, from the metrics."""
        prefix = "loragate_generation_tokens_total{"
        counts: dict[str, int] = {}
        for line in httpx.get(self.control_url + "/metrics", trust_env=False).text.splitlines():
            if line.startswith(prefix):
                labels, _, value = line[len(prefix) :].rpartition("} ")
                version = labels.partition('version="')[2].rstrip('"')
                if version:
                    counts[version] = int(float(value))
        return counts


def run_loragate(state: Path, *arguments: str) -> str:
    """Run a `loragate` command on a state folder, and return its output.

    Raises:
        DemoFailed: The command ended with an error.
    """
    command = child_command("gateway", *arguments, "--state", str(state))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"`loragate {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def run_gateway(settings: Settings, base: Path, has_ports: bool) -> Iterator[Guide]:
    """Run `loragate up` on a temporary state folder until the end of the block."""
    state = Path(tempfile.mkdtemp(prefix="loragate-"))
    ports = (settings.port, settings.control_port)
    if not has_ports:
        ports = tuple(port if _is_free(settings.host, port) else 0 for port in ports)  # type: ignore[assignment]  # two in, two out
    key = json.loads(run_loragate(state, "keys", "create", "--role", "app:pin", "--name", "demo", "--json"))["key"]
    command = child_command(
        "gateway",
        "up",
        "--base",
        str(base),
        "--state",
        str(state),
        "--host",
        settings.host,
        "--port",
        str(ports[0]),
        "--control-port",
        str(ports[1]),
    )
    environment = {
        **child_environment(),
        "LORAGATE_ENGINE__MAX_MODEL_LEN": "2048",
        "LORAGATE_LOG_LEVEL": "warning",
        "LORAGATE_LAME_DUCK_SECONDS": "0",
    }
    # In its own session, so that Ctrl-C reaches only the demo, which then stops the gateway in order.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        status = _wait_until_ready(process, state)
        yield Guide(state, status["app_url"], status["control_url"], key)
    except httpx.HTTPError as error:
        raise DemoFailed(f"the gateway broke off ({type(error).__name__})") from None
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(state, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], state: Path) -> dict[str, Any]:
    deadline = time.monotonic() + ENGINE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log = state / "run" / "engine.log"
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else "it left no log"
            raise DemoFailed(
                f"the gateway ended with {process.returncode} before it was ready; its engine said:\n{tail}"
            )
        if (state / "control.sock").exists():
            try:
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(state / "control.sock"))) as client:
                    status: dict[str, Any] = client.get("http://control/admin/v1/status").json()
                if status["ready"]:
                    return status
            except httpx.HTTPError:
                pass
        time.sleep(0.3)
    raise DemoFailed(f"the engine was not ready after {ENGINE_SECONDS:.0f} s")


def body_of(model: str, question: str, *, stream: bool = False) -> dict[str, Any]:
    """Return the body of a chat request; with temperature 0, so that the answer is always the same."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": stream,
    }


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def step(title: str) -> None:
    """Print a chapter's title."""
    click.secho(f"\n{title}", bold=True)


def note(text: str) -> None:
    """Print a line of a chapter."""
    click.echo(f"   {text}")
