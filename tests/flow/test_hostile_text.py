"""Whatever an operator writes as a name, a note or a reason, commands go on and terminals stay whole."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.visible import needs_escape
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway

HOSTILE = "[/x] [red]R[/red] \x1b]0;title\x07\x1b[31m a\r\x1b[2Kb\nforged \u202egpj \x9b31m \u2028 \u200b \x7f"
# Commands that print what is stored; the others run a gateway, or print nothing that others wrote.
ALIAS = "support"
WALKED = {
    "status": ((),),
    "adapters ls": ((),),
    "adapters show": ((ALIAS,),),
    "routes ls": ((),),
    "routes show": ((ALIAS,),),
    "routes history": ((ALIAS,),),
    "routes diff": ((ALIAS,),),
    "routes export": ((), (ALIAS,)),
    "rollout ls": ((), ("--alias", ALIAS)),
    "rollout status": ((), (ALIAS,)),
    "journal ls": ((), ("--alias", ALIAS)),
    "journal export": ((),),
    "journal verify": ((),),
    "keys ls": ((),),
    "explain": (("1",), ("LAST",)),
    "shadow ls": ((),),
    "shadow report": ((ALIAS,),),
    "gates simulate": (("--plan", "shadow 10 pairs → 100%"),),
}
CHANGES = {
    "apply",
    "adapters add",
    "adapters fuse",
    "adapters rm",
    "adapters scale",
    "routes split",
    "routes revert",
    "rollout start",
    "rollout approve",
    "rollout pause",
    "rollout resume",
    "rollout abort",
    "rollout promote",
    "rollback",
    "keys create",
    "keys revoke",
    "keys rotate",
}
NO_STORED_TEXT = {
    "up",
    "serve",
    "evaluate",
    "check",
    "demo",
    "completion",
    "adapters verify",
    "adapters sign",
    "adapters keygen",
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway in which every text that an operator may choose is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    with FakeEngine() as engine, RunningGateway(engine.url) as gateway:
        versions = []
        for number in (1, 2):
            write_adapter(folder / str(number), number)
            body = {"source": str(folder / str(number)), "name": ALIAS, "activate": number == 1, "notes": HOSTILE}
            versions.append(gateway.admin("POST", "adapters", body).json()["version"])
        gateway.admin("POST", "keys", {"role": "app", "name": HOSTILE})
        route = {"alias": ALIAS, "control": versions[0], "notes": HOSTILE}
        gateway.admin("PUT", "routes", {"routes": [route], "reason": HOSTILE})
        gateway.admin("POST", f"routes/{ALIAS}/rollback", {"to": versions[1], "reason": HOSTILE})
        gateway.admin(
            "POST", f"routes/{ALIAS}/rollout", {"candidate": versions[0], "plan": "5% 1h → 100%", "reason": HOSTILE}
        )
        yield gateway


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command there is, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


def test_every_command_is_known_to_this_walk() -> None:
    assert set(commands(main)) == {*WALKED, *CHANGES, *NO_STORED_TEXT}


@pytest.mark.parametrize("command", WALKED)
def test_a_command_shows_hostile_text_inert(spoilt: RunningGateway, command: str) -> None:
    last = str(spoilt.admin("GET", "journal?newest=true&limit=1").json()["entries"][0]["number"])
    for given in WALKED[command]:
        arguments = [*command.split(), *(last if each == "LAST" else each for each in given)]
        done = run(spoilt, *arguments)
        assert not any(map(needs_escape, done.replace("\n", ""))), (arguments, done)
        if command != "journal export":
            found = json.loads(run(spoilt, *arguments, "--json"))
            assert found is not None


def run(gateway: RunningGateway, *arguments: str) -> str:
    """Run a command in this process; its output must not depend on another one."""
    done = CliRunner().invoke(main, [*arguments, "--state", str(gateway.state)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 0, (arguments, done.output)
    return done.output


def test_the_journal_shows_every_reason_as_it_was_written(spoilt: RunningGateway) -> None:
    out = run(spoilt, "journal", "ls")
    assert "[/x] [red]R[/red] \\x1b]0;title\\x07\\x1b[31m a\\r\\x1b[2Kb\\nforged \\u202egpj" in out


def test_what_is_exported_can_be_applied_again(spoilt: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(run(spoilt, "routes", "export"))
    assert "No changes" in run(spoilt, "apply", "--file", str(file), "--dry-run")


def test_a_refusal_that_quotes_hostile_text_is_inert(spoilt: RunningGateway) -> None:
    done = CliRunner().invoke(main, ["adapters", "add", HOSTILE.replace("\x00", ""), "--state", str(spoilt.state)])
    assert done.exit_code == 2
    assert not any(map(needs_escape, done.output.replace("\n", "")))


def test_the_log_holds_no_sign_that_a_terminal_obeys_and_no_forged_line(spoilt: RunningGateway) -> None:
    log = spoilt.log_path.read_text(errors="replace")
    assert "was rolled back" in log
    assert not any(map(needs_escape, log.replace("\n", "")))
    assert "\nforged" not in log
