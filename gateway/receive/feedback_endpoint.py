"""`POST /v1/feedback`: a caller's feedback on a reply, validated and passed to the node.

Well-formed feedback is accepted whether or not its request is known, so that the answer reveals nothing about other
callers' requests.
"""

import json
from typing import Any, Final

import msgspec

from gateway.errors import BadRequest, Overloaded, PayloadTooLarge
from gateway.receive.deps import MAX_REQUEST_ID, Deps
from gateway.receive.incoming import Incoming
from gateway.records.feedback import MAX_COMMENT, MAX_LABEL, Feedback

_FIELDS: Final = ("request_id", "score", "thumb", "label", "comment")
_VERDICTS: Final = ("score", "thumb", "label")
# Four times the longest comment with every character escaped.
_MAX_BYTES: Final = 64 * 1024


def take_feedback(incoming: Incoming, deps: Deps, now: float) -> bytes:
    """Pass the feedback in a request to the node, and return the reply's body.

    Raises:
        BadRequest: The feedback is not well-formed; `param` names the field.
        RateLimited: The key's request limit, or its account's feedback limit, is exhausted.
        Overloaded: The channel to the node has no room now.
        PayloadTooLarge: The body is larger than 64 KiB.
    """
    caller = incoming.caller
    if caller.rates is not None:
        lease = deps.rates.admit(caller, deps.table(), "", now)
        if lease is not None:
            lease.end(0, now)
    deps.feedback_rates.take(caller.unit, now)
    if incoming.size > _MAX_BYTES:
        raise PayloadTooLarge(f"The feedback has {incoming.size:,} bytes; the limit is {_MAX_BYTES:,}.")
    body, incoming.body = b"".join(incoming.body), []  # the connection may be idle for long after this
    feedback = read_feedback(body, caller.unit, deps.clock())
    if not deps.submit_feedback(feedback):
        raise Overloaded("Feedback cannot be taken just now. Try again shortly.")
    return msgspec.json.encode({"id": feedback.id, "object": "feedback", "request_id": feedback.request_id})


def read_feedback(body: bytes, account: str, now: float) -> Feedback:
    """Parse the body of a feedback request.

    Args:
        body: The JSON as it was sent.
        account: The account that the key belongs to.
        now: Unix seconds.

    Raises:
        BadRequest: The feedback is not well-formed; `param` names the field.
    """
    try:
        values = json.loads(body)  # unlike msgspec it takes lone surrogates, as the other endpoints do
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise BadRequest("The body is not a valid JSON object.")
    for name in values:
        if name not in _FIELDS:
            param = _storable(name[:80])
            raise BadRequest(f"`{param}` is not known; known are {', '.join(_FIELDS)}.", param=param)
    verdicts = [name for name in _VERDICTS if values.get(name) is not None]
    if len(verdicts) != 1:
        found = f"{' and '.join(verdicts)}" if verdicts else "none of them"
        raise BadRequest(
            f"Give exactly one of `score`, `thumb` and `label`; the request has {found}.",
            param=verdicts[1] if verdicts else "score",
        )
    return Feedback(
        request_id=_request_id(values.get("request_id")),
        account=account,
        score=_score(values.get("score")),
        thumb=_thumb(values.get("thumb")),
        label=_text(values, "label", MAX_LABEL, least=1),
        comment=_text(values, "comment", MAX_COMMENT),
        at=now,
    )


def _request_id(value: object) -> str:
    if value is None or value == "":
        raise BadRequest(
            "You must provide `request_id`: the `x-request-id` of the reply that this is about.",
            param="request_id",
            code="missing_required_parameter",
        )
    if not isinstance(value, str) or len(value) > MAX_REQUEST_ID or not value.isascii() or not value.isprintable():
        raise BadRequest(
            f"`request_id` is not one of ours: give a reply's `x-request-id`, at most {MAX_REQUEST_ID} characters.",
            param="request_id",
        )
    return value


def _score(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRequest(
            f"`score` is {_printable(value)}; it must be a number from 0 (bad) to 1 (good).", param="score"
        )
    return float(value)


def _thumb(value: object) -> Any:
    if value is None or value in ("up", "down"):
        return value
    raise BadRequest(f"`thumb` is {_printable(value)}; it may be `up` or `down`.", param="thumb")


def _text(values: dict[str, Any], name: str, most: int, least: int = 0) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        value = _storable(value).replace("\0", "")  # PostgreSQL refuses NUL characters
    if not isinstance(value, str) or not least <= len(value) <= most:
        what = f"{len(value):,} characters" if isinstance(value, str) else "no text"
        raise BadRequest(f"`{name}` is {what}; it must be text of {least} to {most:,} characters.", param=name)
    return value


def _storable(text: str) -> str:
    """Return a text with lone surrogates replaced by `?`: neither a JSON reply nor the store can hold them."""
    return text.encode("utf-8", "replace").decode()


def _printable(value: object) -> str:
    if not isinstance(value, int | float | str):
        return "no text"
    return f"`{_storable(str(value)[:40])}`"
