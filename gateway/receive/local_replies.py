"""Local replies: what the worker answers itself, without an engine (health, CORS preflights, models, feedback)."""

from gateway.openai.endpoints import EndpointKind
from gateway.receive.deps import Deps
from gateway.receive.failures import connection_header, status_line
from gateway.receive.feedback_endpoint import take_feedback
from gateway.receive.incoming import Incoming
from gateway.receive.listing import list_models, show_model


def local_reply(incoming: Incoming, deps: Deps, now: float) -> tuple[int, bytes]:
    """Return the status and the body of a reply that needs no engine.

    Args:
        incoming: A complete request to one of these endpoints.
        deps: The parts that the worker's connections share.
        now: Monotonic seconds.

    Raises:
        ModelNotFound, Forbidden: As for a request to the model.
        BadRequest, PayloadTooLarge, RateLimited, Overloaded: Feedback is refused.
    """
    endpoint, model = incoming.address.endpoint, incoming.address.model
    if endpoint.kind is EndpointKind.HEALTH:
        return (503, b'{"status":"stopping"}') if deps.is_leaving() else (200, b'{"status":"ok"}')
    if endpoint.kind is EndpointKind.PREFLIGHT:
        return 200, b""  # the answer is in the headers
    if endpoint.kind is EndpointKind.FEEDBACK:
        return 202, take_feedback(incoming, deps, now)
    if endpoint.kind is EndpointKind.MODEL and model is not None:
        return 200, show_model(deps.table(), incoming.caller, model)
    return 200, list_models(deps.table(), incoming.caller)


def json_reply(status: int, body: bytes, incoming: Incoming, request_id: bytes, *, keep_alive: bool) -> bytes:
    """Return the bytes of a reply with a JSON body; the reply to a HEAD request has none."""
    more = incoming.reply_headers + connection_header(keep_alive=keep_alive, is_http10=incoming.is_http10)
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        status_line(status),
        len(body),
        request_id,
        more,
        b"" if incoming.method == b"HEAD" else body,
    )
