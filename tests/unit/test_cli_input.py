"""What the commands take and print: times, shares, tables, and where a gateway is."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.keys import Duration
from gateway.cli.routes import Weight
from gateway.cli.tables import show_table


def told(*arguments: str) -> str:
    """What a command that is refused says."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, done.output
    return done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("{}",),
        ("--{}",),
        ("keys", "{}"),
        ("evaluate", "{}"),
        ("keys", "create", "--role", "{}"),
        ("keys", "create", "--role", "app", "--expires", "{}"),
        ("routes", "split", "a", "--candidate", "b", "--weight", "{}"),
        ("gates", "simulate", "{}"),
        ("status", "--no-{}"),
    ],
)
def test_what_was_given_is_quoted_inert_in_an_error(arguments: tuple[str, ...]) -> None:
    said = told(*(each.format("x\x1b[31m\u202e\r\nError: forged") for each in arguments))
    assert said.replace("\n", "").isprintable()
    assert "\nError: forged" not in said


@pytest.mark.parametrize("key", ["sk-loragate-\u202e", "sk-loragate-\u2026", "sk\nloragate"])
def test_a_key_with_a_character_that_none_has_is_refused_and_not_quoted(key: str) -> None:
    said = told("status", "--control", "http://127.0.0.1:9", "--key", key)
    assert "copy it again" in said
    assert "loragate-" not in said


def test_a_time_without_a_unit_is_refused_for_nobody_means_thirty_seconds() -> None:
    assert [Duration().convert(given, None, None) for given in ("30d", "90s", "0")] == [2_592_000, 90, 0]
    with pytest.raises(click.BadParameter, match="`30` is not a time such as"):
        Duration().convert("30", None, None)


def test_a_weight_is_a_share_or_basis_points() -> None:
    assert [Weight().convert(given, None, None) for given in ("5%", "500", "0%", "100%")] == [500, 500, 0, 10_000]
    for wrong in ("101%", "10001", "-1", "0.001%", "five"):
        with pytest.raises(click.BadParameter, match="is not 0 to 100 %"):
            Weight().convert(wrong, None, None)


def test_a_table_in_a_pipe_has_a_whole_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("key-0a1b2c3d4e5f", "a remark of many words " * 15 + "end")
    show_table(("ID", "NAME"), [row], "none")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "ID                NAME",
        "  ".join(row),
    ]


def test_an_address_without_a_scheme_is_told_how_to_write_it() -> None:
    assert "`10.0.0.7:8081` is no URL; write http://HOST:PORT" in told("status", "--control", "10.0.0.7:8081")


def test_yaml_that_cannot_be_read_is_told_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("steps:\n  - {weight: 5%\n")
    said = told("rollout", "start", "support", "support@3f2a9c", "--plan-file", str(file), "--reason", "x")
    assert f"{file}: is not valid YAML" in said
    assert "line 2, column 5" in said
    assert "byte string" not in said
