"""loragate demo."""

import click


@click.command()
@click.option("--exit", "exits", is_flag=True, help="End with a summary instead of serving until Ctrl-C.")
def demo(exits: bool) -> None:
    """Show it all: a real base, two adapters trained here, a third added while a stream runs."""
