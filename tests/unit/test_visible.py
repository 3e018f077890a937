"""What others wrote is shown on a terminal and in a log, and nothing of it is obeyed there."""

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.output import print_json, say
from gateway.cli.tables import MAX_CELL, show_table
from gateway.log_lines import WITHOUT_TIME, InertFormatter
from gateway.visible import needs_escape, visible

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "[/x]",
    "[red]R[/red]",
    "[link=http://evil.example]click[/link]",
    "[bold",
    "\x1b]0;title\x07",
    "\x1b[31mR",
    "a\r\x1b[2Kb",
    "one\ntwo",
    "\u202egpj",
    "\u2066x\u2069",
    "zero\u200bwidth",
    "\x9b31m",
    "\x85next",
    "\u2028line",
    "\x00",
    "\x7f",
    "\ud800",
    "\U000e0041tag",
    "\ufeffmark",
    "\u3164",
    "x" * 3000,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Ärzte, 日本語, עברית, 🙂", "plain, Ärzte, 日本語, עברית, 🙂"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egpj\x9b\x7f\x00", "\\u202egpj\\x9b\\x7f\\x00"),
        ("\u2028\ud800\U000e0041\u3164", "\\u2028\\ud800\\U000e0041\\u3164"),
    ],
)
def test_what_a_terminal_would_obey_or_not_show_is_written_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 40))
def test_any_text_becomes_one_short_line_that_can_be_encoded(text: str, most: int) -> None:
    shown = visible(text, most)
    assert len(shown) <= most
    assert len(visible(text).splitlines()) <= 1
    assert not any(map(needs_escape, visible(text)))
    visible(text).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_a_table_and_json_hold_a_hostile_text_without_obeying_it(text: str) -> None:
    for show in (
        lambda: say(f"why: {text}"),
        lambda: show_table(("WHAT", "WHY"), [(text, text)], "none"),
        lambda: show_table(("WHAT",), [], f"none of {text}"),
    ):
        out = _printed(show)
        assert not any(map(needs_escape, out.replace("\n", "")))
        assert visible(text, MAX_CELL)[:30].strip() in out
        assert out.count("\n") <= 2
    printed = _printed(lambda: print_json(json.dumps({"why": text})))
    assert json.loads(printed) == {"why": text}
    assert printed.strip().isprintable()


def test_a_cell_of_a_table_is_bounded() -> None:
    assert _printed(lambda: show_table(("A",), [("x" * 3000,)], "none")).count("x") < MAX_CELL


def _printed(show: object) -> str:
    import click

    @click.command()
    def command() -> None:
        assert callable(show)
        show()

    done = CliRunner().invoke(command)
    assert done.exception is None, done.exception
    return done.output


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_of_the_log_is_one_line_whatever_it_quotes(text: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(InertFormatter(WITHOUT_TIME))
    # Not through a logger: the test runner would keep the text as it is, which cannot be told to another process.
    handler.handle(logging.LogRecord("loragate.test", logging.WARNING, "", 0, "rolled back: %s", (text,), None))
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.startswith("WARNING loragate.test: rolled back: ")
    assert not any(map(needs_escape, line[:-1]))


def test_a_traceback_in_the_log_cannot_be_taken_for_a_record() -> None:
    formatter = InertFormatter(WITHOUT_TIME)
    try:
        raise ValueError("\n2026-01-01 00:00:00 INFO loragate: all is well\x1b[2J")
    except ValueError:
        record = logging.LogRecord("loragate", logging.ERROR, "", 0, "a bug", None, sys.exc_info())
    first, *others = formatter.format(record).split("\n")
    assert first == "ERROR loragate: a bug"
    assert others
    assert all(line.startswith("  | ") for line in others)
    assert "\x1b" not in "".join(others)


def test_commands_print_through_one_function_alone() -> None:
    own = {"output.py", "completion.py"}  # the function, and a shell's script
    fixed = {"own_engine.py"}  # our own words, on a line that is written over
    for path in sorted((ROOT / "gateway" / "cli").glob("*.py")):
        if path.name in own:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            printed = name in ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write")
            assert not printed or path.name in fixed, (path.name, node.lineno)


def test_every_process_of_ours_writes_its_log_by_the_one_formatter() -> None:
    for package in ("gateway", "adapters", "evaluators"):
        for path in sorted((ROOT / package).rglob("*.py")):
            assert "logging.basicConfig" not in path.read_text() or path.name == "log_lines.py", path
