"""A policy says the same of a body that is read in steps as of one that is read at once, wherever it is cut."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.decide.assign import Split
from gateway.decide.authenticate import Principal, Role
from gateway.decide.engine_fields import FieldPolicy
from gateway.decide.route import Route, RouteTable
from gateway.errors import BadRequest
from gateway.observe.ledger import Ledger
from gateway.openai import json_outline, large_prompts
from gateway.openai.body import Fields, read, read_in_steps
from gateway.openai.endpoints import ENDPOINTS
from gateway.openai.json_outline import run_to_end
from gateway.openai.pieces import Pieces
from gateway.openai.surrogates import repair_surrogates, repair_surrogates_in_steps
from gateway.receive.engine_fields import EngineFields
from gateway.receive.request import Request
from tests.support.body_pieces import pieces
from tests.support.examples import examples

PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages")
TELLING = ("image_url", "file_url", "url", "source", "image_embeds", "prompt_embeds", "uuid", "type", "input_audio")
TEXTS = (
    "http://h/",
    "data:image/png;base64,QUJD",
    "",
    "data",
    "prompt_embeds",
    "DATA:,",
    'see image_url" or \\',
    "é" * 30,
    "\u00e9\u00e9:data:",
    '"',
    '[{"image_url":"http://h/"}]',
    "\x41\U0001f600",
    "x" * 40,
)


@pytest.fixture(autouse=True, scope="module")
def _small_windows() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_outline, "WINDOW_BYTES", 11)
        patch.setattr(json_outline, "_FIRST_BYTES", 2)
        patch.setattr(large_prompts, "WINDOW_BYTES", 7)
        yield


@st.composite
def texts(draw: st.DrawFn, of: tuple[str, ...]) -> str:
    """A text of JSON, some of its letters spelt as escapes."""
    text = draw(st.sampled_from(of))
    escaped = draw(st.sets(st.integers(0, 12), max_size=3))
    letters = [json.dumps(letter, ensure_ascii=False)[1:-1] for letter in text]
    for at in escaped:
        if at < len(text) and ord(text[at]) < 0x10000:
            letters[at] = f"\\u{ord(text[at]):04x}"
    half = draw(st.sampled_from(("", "", "", "", "\\ud800", "\\udc00\\ud83d\\ude00")))
    return f'"{"".join(letters)}{half}"'


SPACES = st.sampled_from(("", "", "", " ", "\n\t  ", " " * 20))


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    space = draw(SPACES)
    return f"[{space}{(',' + space).join(draw(st.lists(values, max_size=4)))}{space}]"


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """An object, some of its members there twice."""
    members = draw(st.lists(st.tuples(texts((*TELLING, *TELLING, "content", "é", "content")), values), max_size=5))
    space = draw(SPACES)
    listed = f"{space},{space}".join(f"{key}{space}:{space}{value}" for key, value in members)
    return f"{{{listed}}}"


SCALARS = texts(TEXTS) | st.sampled_from(("null", "true", "0", "-1.5e3", "1e999", "9" * 30, "null", '"http://h/"'))
VALUES = st.recursive(SCALARS, lambda inner: objects(inner) | lists(inner), max_leaves=20)
MEMBERS = ("messages", "input", "prompt", "system", "previous_input_messages", "messages", "content")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(st.tuples(texts(MEMBERS), VALUES), min_size=1, max_size=3))
    members += draw(st.lists(st.tuples(texts(("n", "max_tokens", "priority")), SCALARS), max_size=1))
    space = draw(SPACES)
    listed = ",".join(f"{key}:{space}{value}{space}" for key, value in members)
    return f"{{{listed}}}".encode()


def verdicts(body: bytes | Pieces, fields: Fields, path: bytes, caps: dict[str, str | int]) -> tuple[Any, Any]:
    """Return what is refused first, and all that a dry run would refuse."""
    table = RouteTable(routes={"m": Route(alias="m", split=Split("m@1"), salt="s")})
    first, ledger = None, Ledger()
    for is_dry in (False, True):
        request = Request(
            b"id",
            ENDPOINTS[path],
            body,
            fields,
            Principal(id="k", role=Role.APP),
            "m",
            unit=None,
            arm=None,
            keep_alive=True,
            is_http10=False,
            extra_headers=b"",
            received_at=0.0,
        )
        try:
            EngineFields(FieldPolicy(rules=caps, dry_run=is_dry), ledger if is_dry else Ledger()).check(request, table)
        except BadRequest as error:
            first = (error.param, error.message)
    return first, dict(ledger.cell("m").engine_fields)


@given(st.data(), bodies(), st.sampled_from(PATHS), st.integers(1, 4))
def test_what_is_refused_is_the_same(data: st.DataObject, body: bytes, path: bytes, cap: int) -> None:
    caps: dict[str, str | int] = {"choices": cap, "inputs": cap}
    cut = data.draw(pieces(body))
    assert verdicts(cut, run_to_end(read_in_steps(cut)), path, caps) == verdicts(body, read(body), path, caps)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"messages":[{"content":[{"\u0069mage_url":{"\u0075rl":"\u0068ttp://\u00e9"}}]}]}', "image_url"),
        (rb'{"messages":[{"content":[{"image_url":{"url":"\u0068ttp://' + "é".encode() * 20 + b'"}}]}]}', "image_url"),
        (b'{"messages":' + b'[{"content":' * 60 + b'{"image_url":"http://h"}' + b"}]" * 60 + b"}", "image_url"),
        (b'{"messages":[{"image_url":"data:,","image_url":"http://h"}]}', "image_url"),
        (b'{"messages":[{"image_url":"http://h","image_url":"data:,"}]}', None),
        (b'{"messages":[{"content":[{"image_url":"http://h"}],"content":"x"}]}', None),
        (rb'{"messages":[{"content":[{"image_url":"http://h"}],"\u0063ontent":"x"}]}', None),
        (b'{"messages":[{"image_url":{"url":{"url":"http://h"}}}]}', "image_url"),
        (b'{"messages":[{"source":                    {"type":"url","url":"http://h"}}]}', "source.url"),
        (b'{"messages":[{"source":"http://h"}]}', None),
        (b'{"messages":[{"uuid":"a"          ,"image_url":null}]}', "uuid"),
        (b'{"previous_input_messages":[{"image_url":"http://h"}]}', "image_url"),
        (b'{"messages":[{"content":"\\"image_url\\":\\"http://h\\""}]}', None),
    ],
)
def test_media_are_found_wherever_a_body_is_cut(body: bytes, field: str | None) -> None:
    caps: dict[str, str | int] = {"choices": 128}  # a cap has even bodies of one list looked at
    assert (verdicts(body, read(body), PATHS[0], caps)[0] or (None,))[0] == field
    for at in range(1, len(body), 1 + len(body) // examples(2_000)):
        cut = Pieces([body[:at], body[at:]])
        assert (verdicts(cut, run_to_end(read_in_steps(cut)), PATHS[0], caps)[0] or (None,))[0] == field, at


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        (b'"one, two"', 1),
        (b"[]", 1),
        (b"[ 1 , 2, 3]", 1),
        (b'["a,b", "c\\",", "d"]', 3),
        (b"[[1,2],[3,4],[5]]", 3),
        (b"[-1,2]", 2),
        (b'[{"a":[1,2],"b":1},{}]', 2),
        (b"[[[1,2],3],4]", 2),
        (b'["\\ud800","b"]', 2),
        (b"null", 1),
    ],
)
def test_prompts_are_counted_alike(prompt: bytes, count: int) -> None:
    body = b'{"prompt":%b}' % prompt
    for cap, is_refused in ((count, False), (count - 1, True)):
        for fields in (read(body), run_to_end(read_in_steps(Pieces((body,))))):
            first, _ = verdicts(body, fields, b"/v1/completions", {"choices": cap}) if cap else (("",), {})
            assert (first is not None) is is_refused


@given(st.text(alphabet='\\udD8cab0n"e', max_size=60))
@example("\\\\ud800\\ud800\\n\\\\\\ud83d\\ude00")
def test_mending_in_steps_is_mending(text: str) -> None:
    assert run_to_end(repair_surrogates_in_steps(text.encode())) == repair_surrogates(text.encode())
