"""loragate adapters verify, sign and keygen: check and sign adapters without a gateway, an engine or torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapters.artifact import InvalidArtifact, read_manifest
from adapters.manifest import Manifest
from adapters.problem import Problem
from adapters.verify import BaseModel, EngineLimits, InvalidBase, InvalidKey, Report, verify
from adapters.verify.signature import make_key, sign, trust_of
from gateway.cli.client import echo_json
from gateway.cli.options import fail, json_option
from gateway.cli.output import say
from gateway.cli.tables import size


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="MODEL_FOLDER",
    help="The base that it must fit; without, only the adapter itself is checked.",
)
@click.option(
    "--max-lora-rank",
    type=click.IntRange(1),
    default=EngineLimits().max_lora_rank,
    show_default=True,
    help="The engine's --max-lora-rank.",
)
@click.option(
    "--trusted-key",
    "keys",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Public keys that count: PEM, or lines of base64; repeatable.",
)
@click.option("--require-signed", is_flag=True, help="Refuse an adapter that no trusted key has signed.")
@json_option
def verify_adapter(
    path: Path, base: Path | None, max_lora_rank: int, keys: tuple[Path, ...], require_signed: bool, as_json: bool
) -> None:
    """Say everything that is wrong with the adapter in folder PATH.

    Ends with 0 if it would be served (warnings are printed), with 1 if it is refused.
    """
    if require_signed and not keys:
        raise fail("--require-signed needs a --trusted-key")
    try:
        report = verify(
            path,
            base=BaseModel.read(base) if base else None,
            limits=EngineLimits(max_lora_rank=max_lora_rank),
            trust=trust_of(keys, is_required=require_signed) if keys else None,
        )
    except (InvalidBase, InvalidKey) as error:
        raise fail(str(error)) from None
    if as_json:
        echo_json(_view(report))
    else:
        _print(report)
    raise click.exceptions.Exit(0 if report.is_accepted else 1)


@click.command("sign")
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Private key that `adapters keygen` made.",
)
def sign_adapter(path: Path, key: Path) -> None:
    """Sign the content of the adapter in folder PATH; the signature is put beside it."""
    try:
        digest = read_manifest(path).digest
        signer = sign(path, digest, key)
    except (InvalidArtifact, InvalidKey) as error:
        raise fail(str(error)) from None
    say(f"Signed {digest[:12]} with key {signer}.")


@click.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
def make_key_pair(file: Path) -> None:
    """Write a new private key to FILE and print its public key, for --trusted-key."""
    try:
        public = make_key(file)
    except FileExistsError:
        raise fail(f"`{file}` exists; a key is never overwritten, give another name") from None
    say(public)
    say(f"The private key is in {file}; keep it. The line above is public: put it into a file.", err=True)


def add_to(group: click.Group) -> None:
    """Add this module's commands to a group."""
    for command in (verify_adapter, sign_adapter, make_key_pair):
        group.add_command(command)


def _view(report: Report) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "accepted": report.is_accepted,
        "digest": manifest.digest if manifest else None,
        "signed_by": report.signed_by or None,
        "manifest": asdict(manifest) | {"scaling": manifest.scaling} if manifest else None,
        "problems": [asdict(problem) for problem in report.problems],
    }


def _print(report: Report) -> None:
    for problem in report.problems:
        _print_problem(problem)
    if report.manifest is not None:
        for line in _facts(report.manifest):
            say(line)
    if report.signed_by:
        say(f"Signed by {report.signed_by}.")
    errors, warnings = (
        _count(len(problems), kind) for problems, kind in ((report.errors, "error"), (report.warnings, "warning"))
    )
    if report.is_accepted:
        say("Accepted" + (f", {warnings}." if report.warnings else "."), fg="green")
    else:
        say(f"Refused: {errors}" + (f", {warnings}." if report.warnings else "."), fg="red")


def _print_problem(problem: Problem) -> None:
    colour = "red" if problem.is_error else "yellow"
    say(f"{problem.severity} {problem.code}", fg=colour, bold=True, nl=not problem.where)
    if problem.where:
        say(f"  {problem.where}")
    say(f"  {problem.message}")
    for label, text in (("value", problem.value), ("limit", problem.limit), ("remedy", problem.remedy)):
        if text is not None:
            say(f"  {label + ':':8} {text}")
    say()


def _facts(manifest: Manifest) -> tuple[str, str]:
    strength = f"rank {manifest.rank}, alpha {manifest.alpha:g}" + (", rsLoRA" if manifest.use_rslora else "")
    modules = f"{manifest.modules} modules ({', '.join(manifest.target_modules)})"
    others = f"{', '.join(manifest.dtypes)}, {size(manifest.size_bytes)}"
    return manifest.digest, f"{strength} (strength {manifest.scaling:.3g}), {modules}, {others}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
