"""loragate journal and explain: read the record of every change of traffic, and check that nobody has altered it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from gateway.cli.client import AdminClient, admin_client, echo_json, parse_reply, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import print_json, say
from gateway.cli.tables import show_table, when
from gateway.rollout.journal import Break, JournalEntry, JournalHead, verify

if TYPE_CHECKING:
    from gateway.admin.models.rollouts import EntryView, JournalCheck

_PATH = "/admin/v1/journal"
_PAGE = 1000
_MAX_DIGITS = 19
# Characters of a reason in the table; `loragate explain` prints all of it.
_MAX_WHY = 80


@click.group()
def journal() -> None:
    """List, verify and export the record of every change of traffic."""


@journal.command("ls")
@click.option("--alias", help="Only what changed this alias.")
@click.option("--after", type=click.IntRange(0), metavar="N", help="Only entries after entry N.  [default: the newest]")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=20, show_default=True, help="At most so many.")
@json_option
@control_options
def list_entries(alias: str | None, after: int | None, limit: int, as_json: bool, **options: Any) -> None:
    """List entries, the oldest first."""
    query = f"?limit={limit}" + (f"&alias={segment(alias)}" if alias is not None else "")
    query += "&newest=true" if after is None else f"&after={after}"
    answer = admin_client(options).ask_running("GET", _PATH + query)
    if as_json:
        echo_json(answer["entries"])
        return
    from gateway.admin.models.rollouts import JournalView

    rows = [_row(each) for each in parse_reply(JournalView.model_validate, answer).entries]
    show_table(("N", "WHEN", "WHO", "WHAT", "ALIAS", "WHY"), rows, _explain_empty(alias, after))


def _explain_empty(alias: str | None, after: int | None) -> str:
    if alias is None and not after:
        return "The journal is empty."
    return "No entries" + (f" of `{alias}`" if alias is not None else "") + (f" after {after}" if after else "") + "."


def _row(entry: "EntryView") -> tuple[str, ...]:
    record = entry.record
    event = record.get("event")
    what = event.get("type", "?") if isinstance(event, dict) else record.get("kind", "?")
    at = record.get("at")
    why = str(record.get("why") or "-")
    texts = (what, record.get("alias") or "-", why if len(why) <= _MAX_WHY else why[: _MAX_WHY - 1] + "…")
    return (
        str(entry.number),
        when(int(at)) if isinstance(at, int | float) else "-",
        str(record.get("who") or "-"),
        *(str(each) for each in texts),
    )


@journal.command("verify")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--head", metavar="NUMBER:HASH", help="An entry as noted elsewhere: shows a cut-off end, or a new chain.")
@json_option
@control_options
def verify_entries(file: Path | None, head: str | None, as_json: bool, **options: Any) -> None:
    """Check the chain of the running gateway's journal, or of an export; exit 1 if it is broken.

    FILE is what `loragate journal export` wrote; no gateway is needed then.
    """
    from gateway.admin.models.rollouts import JournalCheck

    anchor = _parse_head(head) if head is not None else None
    if file is not None:
        check = _check_file(file, anchor)
    else:
        query = f"?head={head}" if head is not None else ""
        answer = admin_client(options).ask_running("GET", f"{_PATH}/verify{query}")
        check = parse_reply(JournalCheck.model_validate, answer)
    if as_json:
        echo_json(check.model_dump())
    elif check.status == "whole":
        last = check.head
        say(f"whole: {last.number} entries, head {last.number}:{last.hash}" if last else "whole: empty")
    else:
        say(f"BROKEN at entry {check.number}: {check.reason}")
    if check.status != "whole":
        raise click.exceptions.Exit(1)


def _parse_head(text: str) -> JournalHead:
    number, _, digest = text.partition(":")
    is_number = number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS
    if not is_number or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise fail(f"`{text[:100]}` is no head; write NUMBER:HASH, 64 hex digits, as `journal export` prints it")
    return JournalHead(number=int(number), hash=digest)


def _check_file(file: Path, anchor: JournalHead | None) -> "JournalCheck":
    """Check the chain in an exported file, with a single entry of it in memory at a time."""
    from gateway.admin.models.rollouts import HeadView, JournalCheck

    last: JournalEntry | None = None

    def remember_last(entries: Iterable[JournalEntry]) -> Iterator[JournalEntry]:
        nonlocal last
        for entry in entries:
            last = entry
            yield entry

    try:
        with file.open(encoding="utf-8") as lines:
            fault: Break | None = verify(remember_last(_parse_entries(lines, file)), head=anchor)
    except (OSError, UnicodeDecodeError) as error:
        raise fail(f"`{file}` cannot be read ({error})") from None
    head = HeadView.model_validate(last) if last is not None else None
    if fault is None:
        return JournalCheck(status="whole", number=None, reason=None, head=head)
    return JournalCheck(status="broken", number=fault.number, reason=fault.reason, head=head)


def _parse_entries(lines: IO[str], file: Path) -> Iterator[JournalEntry]:
    for at, line in enumerate(lines, 1):
        try:
            values = json.loads(line, object_pairs_hook=_refuse_duplicates)
            number, previous, digest, record = (values[name] for name in ("number", "previous", "hash", "record"))
            if not (type(number) is int and isinstance(previous, str) and isinstance(digest, str)):
                raise ValueError("other kinds of values")
            yield JournalEntry(number=number, previous=previous, hash=digest, record=dict(record))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise fail(
                f"`{file}` line {at} is no journal entry; expected a file of `loragate journal export`"
            ) from None


def _refuse_duplicates(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; refuse a member given twice, as parsers disagree which of the two counts."""
    values = dict(members)
    if len(values) < len(members):
        raise ValueError("a member is there twice")
    return values


@journal.command("export")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File.  [default: standard output]")
@json_option
@control_options
def export(output: Path | None, as_json: bool, **options: Any) -> None:
    """Write all entries as lines of JSON, and print the head, to be noted elsewhere.

    With --json the head is printed as JSON. It goes to standard error if the entries go to standard output.
    """
    control = admin_client(options)
    last: EntryView | None = None
    with click.open_file(str(output) if output is not None else "-", "w", encoding="utf-8") as file:
        for last in _read_all(control):
            file.write(json.dumps(last.model_dump(), sort_keys=True) + "\n")
        file.flush()
        if as_json:
            head = {"number": last.number, "hash": last.hash} if last is not None else None
            print_json(json.dumps({"head": head}), err=output is None)
        else:
            what = f"head {last.number}:{last.hash}" if last is not None else "the journal is empty"
            say(what, err=output is None)


def _read_all(control: AdminClient) -> "Iterator[EntryView]":
    from gateway.admin.models.rollouts import JournalView

    after: int | None = 0
    while after is not None:
        page = parse_reply(
            JournalView.model_validate, control.ask_running("GET", f"{_PATH}?after={after}&limit={_PAGE}")
        )
        yield from page.entries
        after = page.next


@click.command()
@click.argument("decision")
@json_option
@control_options
def explain(decision: str, as_json: bool, **options: Any) -> None:
    """Tell who decided what, why, and on which figures.

    DECISION is an entry's number in `loragate journal ls`, or a rollout's id for all of its story.
    """
    answer = admin_client(options).ask_running("GET", f"/admin/v1/decisions/{segment(decision)}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.rollouts import DecisionView

    explanation = parse_reply(DecisionView.model_validate, answer)
    for line in explanation.story:
        say(line)
    if explanation.replay is not None:
        say(f"The journal, replayed, leads to the state {explanation.replay}.")
