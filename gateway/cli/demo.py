"""loragate demo: run all parts of Loragate on this machine, with a real base model and real adapters."""

from typing import Any

import click

from gateway.cli.options import fail, load_settings
from gateway.cli.output import say


@click.command()
@click.option("--exit", "exits", is_flag=True, help="End with a summary instead of serving until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), help="App port.  [default: 8080, or a free one]")
@click.option("--control-port", type=click.IntRange(0, 65535), help="Control port.  [default: 8081, or a free one]")
def demo(exits: bool, **options: Any) -> None:
    """Talk to a real base and adapters trained here; see a good version go live and an overfitted one taken back.

    The first run makes the base model and trains the adapters, which takes a few minutes;
    later ones take them from the cache.
    """
    from gateway.demo.base_model import WeightsMissing
    from gateway.demo.guide import DemoFailed
    from gateway.demo.story import run_demo

    settings = load_settings(None, options)
    try:
        run_demo(settings, has_ports=options["port"] is not None, exits=exits)
    except (WeightsMissing, DemoFailed) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        say()
        say("Stopped.")
