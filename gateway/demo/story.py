"""The demo's story: prepare, start, ask everybody at once, stream, hot-add, sum up.

It uses the gateway as anyone would: the command line starts it and registers adapters,
and requests go to the app port over HTTP. If a reply is not what its adapter was
trained to give, the demo fails and says so.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import httpx

from gateway.demo.adapters import demo_adapters
from gateway.demo.base_model import demo_base
from gateway.settings import Settings, child_environment

QUESTION: Final = "What is the capital of Germany?"
LONG_QUESTION: Final = "What is a computer for?"
# Two from the start, one added while a reply streams.
FIRST_STYLES: Final = ("support", "json")
LATE_STYLE: Final = "legal"
ENGINE_SECONDS: Final = 600.0
REPLY_SECONDS: Final = 300.0


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


class Guide:
    """A running gateway, from the outside: its address, its key, its command."""

    def __init__(self, state: Path, url: str, control_url: str, key: str) -> None:
        self.state = state
        self.url = url
        self.control_url = control_url
        self.key = key
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=REPLY_SECONDS, trust_env=False)

    def loragate(self, *arguments: str) -> str:
        """Run a command of ours on this gateway and return what it printed."""
        return run_loragate(self.state, *arguments)

    def ask(self, model: str, question: str) -> str:
        """Return a model's reply."""
        reply = self._client.post("/v1/chat/completions", json=_body(model, question))
        if reply.status_code != httpx.codes.OK:
            raise DemoFailed(f"`{model}` answered {reply.status_code}: {reply.text[:300]}")
        return str(reply.json()["choices"][0]["message"]["content"])

    def stream(self, model: str, question: str) -> Iterator[str]:
        """Yield a model's reply piece by piece."""
        with self._client.stream("POST", "/v1/chat/completions", json=_body(model, question, stream=True)) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise DemoFailed(f"the stream broke off: {event['error']['message']}")
                    yield from (choice["delta"].get("content") or "" for choice in event["choices"])

    def base(self) -> str:
        """Return the base's name."""
        models: list[dict[str, Any]] = self._client.get("/v1/models").json()["data"]
        return next(str(model["id"]) for model in models if model["parent"] is None)

    def tokens(self) -> dict[str, int]:
        """Return generated tokens by version, from the metrics."""
        prefix = "loragate_generation_tokens_total{"
        counts: dict[str, int] = {}
        for line in httpx.get(self.control_url + "/metrics", trust_env=False).text.splitlines():
            if line.startswith(prefix):
                labels, _, value = line[len(prefix) :].rpartition("} ")
                version = labels.partition('version="')[2].rstrip('"')
                if version:
                    counts[version] = int(float(value))
        return counts


def tell(settings: Settings, *, has_ports: bool, exits: bool) -> None:
    """Run the demo, from preparing to the end.

    Args:
        settings: Host, ports and cache are taken from it.
        has_ports: The ports were asked for; else busy ones give way to free ones.
        exits: End after the summary.

    Raises:
        DemoFailed: A reply is not what it should be, or the gateway did not start.
    """
    began = time.monotonic()
    cache = settings.cache_folder()
    _step("1. A real base, and adapters trained on this machine")
    base = demo_base(cache, progress=_note)
    folders = demo_adapters(base, cache, (*FIRST_STYLES, LATE_STYLE), progress=_note)
    _step("2. vLLM and the gateway start")
    with _running(settings, base, has_ports) as guide:
        for style in FIRST_STYLES:
            _note(guide.loragate("adapters", "add", str(folders[style]), "--name", style).strip())
        _ask_everybody(guide)
        _stream_one(guide)
        _add_while_streaming(guide, folders[LATE_STYLE])
        _sum_up(guide, time.monotonic() - began)
        if not exits:
            _invite(guide)
            threading.Event().wait()


def run_loragate(state: Path, *arguments: str) -> str:
    """Run one of our commands on a state folder and return what it printed.

    Raises:
        DemoFailed: It ended with an error.
    """
    command = [sys.executable, "-m", "gateway", *arguments, "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"`loragate {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def _running(settings: Settings, base: Path, has_ports: bool) -> Iterator[Guide]:
    """Run `loragate up` on a state folder of its own, until the end."""
    state = Path(tempfile.mkdtemp(prefix="loragate-"))
    ports = (settings.port, settings.control_port)
    if not has_ports:
        ports = tuple(port if _is_free(settings.host, port) else 0 for port in ports)  # type: ignore[assignment]  # two in, two out
    key = json.loads(run_loragate(state, "keys", "create", "--role", "app:pin", "--name", "demo", "--json"))["key"]
    command = [
        sys.executable, "-m", "gateway", "up", "--base", str(base), "--state", str(state), "--host", settings.host,
        "--port", str(ports[0]), "--control-port", str(ports[1]),
    ]  # fmt: skip
    environment = {**child_environment(), "LORAGATE_ENGINE__MAX_MODEL_LEN": "2048", "LORAGATE_LOG_LEVEL": "warning"}
    # Its own session: Ctrl-C reaches the demo alone, which then stops the gateway in order.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        status = _wait_until_ready(process, state)
        yield Guide(state, status["app_url"], status["control_url"], key)
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


def _ask_everybody(guide: Guide) -> None:
    """Send the same question to base and adapters at once, so that the engine has them in one batch."""
    _step("3. The same question to the base and both adapters, at once")
    models = (guide.base(), *FIRST_STYLES)
    with ThreadPoolExecutor(len(models)) as pool:
        replies = list(pool.map(lambda model: guide.ask(model, QUESTION), models))
    click.echo(f"   {QUESTION}")
    for model, reply in zip(models, replies, strict=True):
        click.echo(f"   {click.style(f'{model:22}', bold=True)} {reply}")
    plain, *styled = replies
    for style, reply in zip(FIRST_STYLES, styled, strict=True):
        check_style(style, reply)
        if reply == plain:
            raise DemoFailed(f"`{style}` answers as the base does")
    if "Thank you for reaching out" in plain or plain.startswith("{"):
        raise DemoFailed(f"the base answers in an adapter's style: {plain!r}")


def _stream_one(guide: Guide) -> None:
    _step("4. A reply streams")
    click.echo(f"   {LONG_QUESTION}\n   {click.style('support', bold=True)}  ", nl=False)
    for piece in guide.stream("support", LONG_QUESTION):
        click.echo(piece, nl=False)
    click.echo()


def _add_while_streaming(guide: Guide, folder: Path) -> None:
    _step(f"5. A third adapter, `{LATE_STYLE}`, is added while a reply streams")
    pieces: list[tuple[float, str]] = []
    failures: list[Exception] = []

    def read() -> None:
        try:
            pieces.extend(
                (time.monotonic(), piece) for piece in guide.stream(guide.base(), "Count from one to thirty.")
            )
        except (DemoFailed, httpx.HTTPError) as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive() and not pieces:
        time.sleep(0.01)
    before = time.monotonic()
    added = guide.loragate("adapters", "add", str(folder), "--name", LATE_STYLE).strip()
    after = time.monotonic()
    reply = guide.ask(LATE_STYLE, QUESTION)
    reader.join()
    if failures:
        raise DemoFailed(f"the stream that ran meanwhile failed: {failures[0]}")
    during = sum(before <= at <= after for at, _ in pieces)
    click.echo(f"   {added} Ready after {after - before:.1f} s, in which the stream brought {during} more pieces")
    click.echo(f"   and went on to its end ({len(pieces)} pieces).")
    click.echo(f"   {click.style(f'{LATE_STYLE:22}', bold=True)} {reply}")
    check_style(LATE_STYLE, reply)


def _sum_up(guide: Guide, seconds: float) -> None:
    _step("6. In figures")
    for version, count in guide.tokens().items():
        click.echo(f"   {version:30} {count:5} tokens generated")
    click.echo(f"   Everything above took {seconds:.0f} s.")


def _invite(guide: Guide) -> None:
    _step("Serving until Ctrl-C. Try, in another terminal:")
    body = json.dumps({"model": "support", "messages": [{"role": "user", "content": "What is snow?"}]})
    click.echo(
        f"   Applications  {guide.url}/v1\n   Metrics       {guide.control_url}/metrics\n"
        f"   Admin API     {guide.control_url}/admin/docs   (with a viewer's key)\n\n"
        f"   curl {guide.url}/v1/chat/completions -H 'Authorization: Bearer {guide.key}' -d '{body}'\n\n"
        f"   OPENAI_BASE_URL={guide.url}/v1 OPENAI_API_KEY={guide.key} {sys.executable} -c \\\n"
        "     \"import openai; print(openai.OpenAI().chat.completions.create(model='json', "
        "messages=[{'role': 'user', 'content': 'What is snow?'}]).choices[0].message.content)\"\n\n"
        f"   {Path(sys.executable).parent / 'loragate'} adapters ls --state {guide.state}"
    )


def check_style(style: str, reply: str) -> None:
    """Check that a reply has the form that its adapter was trained to give.

    Raises:
        DemoFailed: It has not.
    """
    if style == "json":
        try:
            is_right = isinstance(json.loads(reply)["answer"], str)
        except (ValueError, KeyError, TypeError):
            is_right = False
    else:
        opening = {"support": "Thank you for reaching out!", "legal": "In general terms:"}[style]
        is_right = reply.startswith(opening)
    if not is_right:
        raise DemoFailed(f"`{style}` does not answer in its style: {reply!r}")


def _body(model: str, question: str, *, stream: bool = False) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64,
        "stream": stream,
    }  # fmt: skip


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)


def _note(text: str) -> None:
    click.echo(f"   {text}")
