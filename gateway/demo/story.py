"""The demo's chapters: prepare, start, ask base and adapters at once, stream, hot-add, roll out and back, sum up.

It uses the gateway as any user would: the command line starts it and registers adapters, and requests go to the app
port over HTTP. If a reply is not what its adapter was trained to give, the demo fails and says so.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click
import httpx

from gateway.demo.adapters import BETTER, OVERFITTED, demo_adapters
from gateway.demo.base_model import demo_base
from gateway.demo.guide import DemoFailed, Guide, note, run_gateway, step
from gateway.demo.trials import run_trials
from gateway.settings import Settings
from gateway.visible import visible

QUESTION: Final = "What is the capital of Germany?"
LONG_QUESTION: Final = "What is a computer for?"
# Two adapters from the start, and one that is added while a reply streams.
FIRST_STYLES: Final = ("support", "json")
LATE_STYLE: Final = "legal"


def run_demo(settings: Settings, *, has_ports: bool, exits: bool) -> None:
    """Run the whole demo.

    Args:
        settings: Gives host, ports and cache.
        has_ports: The user has chosen the ports; else free ones replace busy ones.
        exits: End after the summary; else serve until Ctrl-C.

    Raises:
        DemoFailed: A reply is not as expected, or the gateway did not start.
    """
    began = time.monotonic()
    cache = settings.cache_folder()
    step("1. A real base, and adapters trained on this machine")
    base = demo_base(cache, progress=note)
    folders = demo_adapters(base, cache, (*FIRST_STYLES, LATE_STYLE, BETTER, OVERFITTED), progress=note)
    step("2. vLLM and the gateway start")
    with run_gateway(settings, base, has_ports) as guide:
        for style in FIRST_STYLES:
            note(guide.loragate("adapters", "add", str(folders[style]), "--name", style).strip())
        _ask_everybody(guide)
        _stream_one(guide)
        _add_while_streaming(guide, folders[LATE_STYLE])
        run_trials(guide, folders[BETTER], folders[OVERFITTED], cache / "shadow-report.html")
        _sum_up(guide, time.monotonic() - began)
        if not exits:
            _invite(guide)
            threading.Event().wait()


def _ask_everybody(guide: Guide) -> None:
    """Send the same question to base and adapters at once, so that the engine serves them in one batch."""
    step("3. The same question to the base and both adapters, at once")
    models = (guide.base(), *FIRST_STYLES)
    with ThreadPoolExecutor(len(models)) as pool:
        replies = list(pool.map(lambda model: guide.ask(model, QUESTION), models))
    click.echo(f"   {QUESTION}")
    for model, reply in zip(models, replies, strict=True):
        click.echo(f"   {click.style(f'{model:22}', bold=True)} {visible(reply)}")
    plain, *styled = replies
    for style, reply in zip(FIRST_STYLES, styled, strict=True):
        check_style(style, reply)
        if reply == plain:
            raise DemoFailed(f"`{style}` answers as the base does")
    if "Thank you for reaching out" in plain or plain.startswith("{"):
        raise DemoFailed(f"the base answers in an adapter's style: {plain!r}")


def _stream_one(guide: Guide) -> None:
    step("4. A reply streams")
    click.echo(f"   {LONG_QUESTION}\n   {click.style('support', bold=True)}  ", nl=False)
    for piece in guide.stream("support", LONG_QUESTION):
        click.echo(visible(piece), nl=False)
    click.echo()


def _add_while_streaming(guide: Guide, folder: Path) -> None:
    step(f"5. A third adapter, `{LATE_STYLE}`, is added while a reply streams")
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
    click.echo(f"   {click.style(f'{LATE_STYLE:22}', bold=True)} {visible(reply)}")
    check_style(LATE_STYLE, reply)


def _sum_up(guide: Guide, seconds: float) -> None:
    step("11. In figures")
    for version, count in guide.tokens().items():
        click.echo(f"   {version:30} {count:5} tokens generated")
    click.echo(f"   Everything above took {seconds:.0f} s.")


def _invite(guide: Guide) -> None:
    step("Serving until Ctrl-C. Try, in another terminal:")
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
        DemoFailed: The reply has another form.
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
