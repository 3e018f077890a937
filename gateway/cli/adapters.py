"""loragate adapters: register, fuse, list, show and remove adapters of a running gateway."""

import os
from typing import TYPE_CHECKING, Any

import click

from adapters.recipe import CannotFuse, Method, parse_parents
from gateway.cli.client import admin_client, echo_json, fetch_all, parse_reply, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.progress import long_operation
from gateway.cli.tables import show_table, size, when
from gateway.cli.verify import add_to

if TYPE_CHECKING:
    from gateway.admin.models.adapters import RecipeView


@click.group()
def adapters() -> None:
    """Register, fuse, list and remove adapters, while the gateway serves."""


add_to(adapters)  # verify, sign, keygen


@adapters.command("add")
@click.argument("source")
@click.option("--name", required=True, help="Alias that clients send as `model`.")
@click.option("--notes", default="", help="A remark to keep with the version.")
@click.option("--digest", help="Refuse anything but this content: 64 hex digits, or the first 12 or more.")
@click.option("--activate/--no-activate", default=True, show_default=True, help="Point the alias at it.")
@click.option("--allow-no-op", is_flag=True, help="Register it even if it adds nothing to the base.")
@json_option
@control_options
def add(source: str, as_json: bool, **options: Any) -> None:
    """Register the adapter at SOURCE and point the alias at it.

    SOURCE is a folder, a tar archive, or a URL below one of the setting `adapters.sources`
    (s3://bucket/folder). It is verified, copied, loaded and checked while requests go on; the
    version is named by its content.
    """
    if "://" not in source and options["control"] is None:  # the path is on this machine only if the gateway is, too
        if not os.path.lexists(source):  # Path.exists raises for a name that is too long
            raise fail(f"`{source}` is neither a folder or an archive here, nor a URL")
        source = os.path.realpath(source)
    body = {key: options.pop(key) for key in ("name", "notes", "digest", "activate", "allow_no_op")}
    _register("", {"source": source, **body}, as_json, options)


@adapters.command("fuse")
@click.argument("parents", nargs=-1, required=True, metavar="PARENT=WEIGHT...")
@click.option("--name", required=True, help="Alias to register the new version under.")
@click.option(
    "--method",
    type=click.Choice([each.value for each in Method if each is not Method.SCALE]),
    default=Method.CAT.value,
    show_default=True,
    help="cat is the exact weighted sum.",
)
@click.option("--rank", type=click.IntRange(1), help="Rank of the result, for svd and slerp.")
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), help="Share of values kept, for ties and dare.")
@click.option("--seed", type=click.IntRange(0), help="For dare, which draws.")
@click.option("--notes", default="", help="A remark to keep with the version.")
@click.option("--activate/--no-activate", default=None, help="Point the alias at it.  [default: if the alias is new]")
@json_option
@control_options
def fuse(parents: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Make one new version out of several: loragate adapters fuse legal=0.7 support=0.3 --name both.

    PARENT is an alias or a version; without a weight it is 1.
    """
    try:
        sources = parse_parents(parents)
    except CannotFuse as error:
        raise fail(f"{error}; {error.remedy}") from None
    names = ("name", "method", "rank", "density", "seed", "notes", "activate")
    body = {key: options.pop(key) for key in names}
    body["parents"] = [{"version": parent.version, "weight": parent.weight} for parent in sources]
    _register("/fuse", body, as_json, options)


@adapters.command("scale")
@click.argument("version")
@click.argument("factor", type=float)
@click.option("--name", help="Alias to register the new version under.  [default: that of VERSION]")
@click.option("--notes", default="", help="A remark to keep with the version.")
@click.option("--activate/--no-activate", default=None, help="Point the alias at it.  [default: if the alias is new]")
@json_option
@control_options
def scale(version: str, factor: float, as_json: bool, **options: Any) -> None:
    """Make a version with FACTOR times the effect of VERSION (an alias or a version)."""
    body = {key: options.pop(key) for key in ("name", "notes", "activate")}
    _register("/scale", {"version": version, "factor": factor, **body}, as_json, options)


def _register(path: str, body: dict[str, Any], as_json: bool, options: dict[str, Any]) -> None:
    control = admin_client(options)
    with long_operation(is_quiet=as_json) as on_progress:
        answer = control.follow(f"/admin/v1/adapters{path}", body, on_progress)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.adapters import AdapterView

    version = parse_reply(AdapterView.model_validate, answer)
    facts = f"{version.version} (rank {version.rank}, {size(version.size_bytes)})"
    for warning in version.warnings:
        say(f"warning: {warning}", err=True)
    if version.difference:
        say(f"It differs from the exact weighted sum, relative to it, by {version.difference}.")
    if version.serves:
        say(f"`{version.name}` serves {facts}.")
    else:
        say(f"Registered {facts}; `{version.name}` serves what it did before.")


@adapters.command("ls")
@json_option
@control_options
def list_adapters(as_json: bool, **control: Any) -> None:
    """List all registered versions."""
    answers = fetch_all(admin_client(control).ask_running, "/admin/v1/adapters", "adapters")
    if as_json:
        echo_json(answers)
        return
    from gateway.admin.models.adapters import AdapterView

    rows = [
        (
            each.version,
            each.state,
            ", ".join(each.serves) or "-",
            str(each.rank),
            size(each.size_bytes),
            when(each.created),
        )
        for each in (parse_reply(AdapterView.model_validate, answer) for answer in answers)
    ]
    show_table(
        ("VERSION", "STATE", "SERVES", "RANK", "SIZE", "ADDED"),
        rows,
        "No adapters yet: loragate adapters add PATH --name NAME",
    )


@adapters.command("show")
@click.argument("name")
@json_option
@control_options
def show(name: str, as_json: bool, **control: Any) -> None:
    """Show one version, or the one that alias NAME serves."""
    answer = admin_client(control).ask_running("GET", f"/admin/v1/adapters/{segment(name)}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.adapters import AdapterDetail

    version = parse_reply(AdapterDetail.model_validate, answer)
    values = {
        **version.model_dump(mode="json", exclude={"engines"}),
        "created": when(version.created),
        "size_bytes": size(version.size_bytes),
        "target_modules": _format_targets(version.target_modules),
        "recipe": _format_recipe(version.recipe),
        "parents": [f"{each.version}={each.weight:g}" for each in version.parents],
    }
    for key, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        say(f"{key.replace('_bytes', ''):16} {text if text not in (None, '') else '-'}")
    for engine in version.engines:
        standing = "ready" if engine.ready else "not loaded" if engine.up else "down"
        say(f"{'on':16} {engine.url}: {engine.reason or standing}")
        if engine.fingerprint is not None:
            say(f"{'':16} last check {engine.fingerprint.verdict}: {engine.fingerprint.reason}")


def _format_targets(modules: list[str]) -> str:
    """Return the kinds of modules, since a fused version names hundreds of modules in full."""
    kinds = sorted({module.rpartition(".")[2] for module in modules})
    count = f" ({len(modules)} modules)" if len(modules) > len(kinds) else ""
    return ", ".join(kinds) + count


def _format_recipe(recipe: "RecipeView | None") -> str:
    if recipe is None:
        return ""
    settings = recipe.model_dump(mode="json", exclude={"method"}, exclude_none=True)
    return ", ".join([recipe.method, *(f"{key} {value}" for key, value in settings.items())])


@adapters.command("rm")
@click.argument("name")
@json_option
@control_options
def remove(name: str, as_json: bool, **control: Any) -> None:
    """Remove alias NAME with all its versions, or one version that nothing serves.

    Replies under way are finished.
    """
    answer = admin_client(control).ask_running("DELETE", f"/admin/v1/adapters/{segment(name)}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.adapters import RemovedView

    say(f"Removed {', '.join(parse_reply(RemovedView.model_validate, answer).removed)}.")
