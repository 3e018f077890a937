"""loragate shadow: list what is compared, and report how each version differs from its control."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.client import admin_client, echo_json, parse_reply, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.shadow_table import queue_line
from gateway.cli.tables import show_table, when
from gateway.rollout.plan_values import NotReadable, seconds_of

_PATH = "/admin/v1/shadow"
_KINDS = {"candidate": "candidate", "base": "against the base", "noise": "noise"}


@click.group()
def shadow() -> None:
    """See what shadow evaluation has found: scores, drift, noise and gates."""


@shadow.command("ls")
@json_option
@control_options
def list_shadows(as_json: bool, **options: Any) -> None:
    """List what is compared: one line for each version and what it is held against."""
    answer = admin_client(options).ask_running("GET", _PATH)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.shadow import ShadowsView

    view = parse_reply(ShadowsView.model_validate, answer)
    rows = [
        (
            each.alias,
            each.version,
            each.control,
            _KINDS[each.kind],
            f"{each.n:,}",
            _format_nats(each.kl),
            _format_nats(each.kl_noise),
            when(int(each.last_at)),
        )
        for each in view.shadows
    ]
    show_table(
        ("ALIAS", "VERSION", "AGAINST", "KIND", "PAIRS", "KL", "NOISE", "LAST"),
        rows,
        "Nothing was compared in the last day: mirror a route's requests, or roll out with a `shadow` stage.",
    )
    say(queue_line(view.queue))


@shadow.command("report")
@click.argument("alias")
@click.option("--since", default="24h", show_default=True, metavar="TIME", help="Pairs compared since so long.")
@click.option("--rollout", metavar="ROLLOUT", help="Show this one's gates.  [default: the open one, else the last]")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots to this file.")
@json_option
@control_options
def report(alias: str, since: str, rollout: str | None, html: Path | None, as_json: bool, **options: Any) -> None:
    """Show what is known of ALIAS: each version's scores and drift by task, against noise, and its gates.

    KL is in nats a token: as estimated, and what it is at least. Intervals are of 95 %, at this look; what stands out
    over all figures has a `*`.
    """
    query = f"?since_seconds={_parse_since(since)}" + (f"&rollout={segment(rollout)}" if rollout else "")
    answer = admin_client(options).ask_running("GET", f"{_PATH}/{segment(alias)}{query}")
    if as_json and html is None:
        echo_json(answer)
        return
    from gateway.admin.models.shadow import ShadowReport

    view = parse_reply(ShadowReport.model_validate, answer)
    if html is not None:
        from gateway.cli.shadow_html import PlotsMissing, page

        try:
            html.write_text(page(view))
        except PlotsMissing as error:
            raise fail(str(error)) from None
        say(f"wrote {html}", err=as_json)
    if as_json:
        echo_json(answer)
    elif html is None:
        from gateway.cli.shadow_table import show

        show(view)


def _parse_since(text: str) -> int:
    try:
        return seconds_of(int(text) if text.isdigit() else text)
    except NotReadable as error:
        raise fail(f"--since `{text}`: expected {error}") from None


def _format_nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
