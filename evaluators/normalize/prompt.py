"""Convert a request to a `Prompt`: its conversation, and the form that the answer must have."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from evaluators.normalize.reading import (
    NotComparable,
    json_text_of,
    list_of,
    mapping_of,
    mappings_of,
    number_of,
    object_of,
    text_of,
)
from evaluators.observation import Prompt

Turn = tuple[str, str]


def prompt_of(endpoint: str, body: bytes) -> Prompt:
    """Parse a request into a prompt.

    Content that is not text is shown as its type, such as `[image_url]`; an assistant's earlier tool calls are shown as
    `[calls name(arguments)]`; reasoning is left out.

    Args:
        endpoint: The path, such as `/v1/chat/completions`.
        body: The request body as the client sent it.

    Raises:
        NotComparable: `unknown_endpoint`, `not_json`, or `several_prompts`.
    """
    if endpoint not in _TURNS:
        raise NotComparable("unknown_endpoint")
    try:
        return _prompt(endpoint, object_of(body))
    except RecursionError:  # nested deeper than we can follow, though the decoder could
        raise NotComparable("not_json") from None


def _prompt(endpoint: str, request: Mapping[str, Any]) -> Prompt:
    schema, wants_json = _form_of(request)
    return Prompt(
        endpoint=endpoint,
        messages=tuple(_TURNS[endpoint](request)),
        text=_completion_text(request) if endpoint == "/v1/completions" else None,
        schema=schema,
        wants_json=wants_json,
        tools=tuple(_tool_names(request)),
        expected=_expectation(mapping_of(request.get("metadata")).get("expected")),
        temperature=number_of(request.get("temperature")),
    )


def prompt_count(request: Mapping[str, Any]) -> int:
    """Return how many prompts a plain completion has: texts, lists of token ids, and embeddings."""
    prompt, embeddings = request.get("prompt"), request.get("prompt_embeds")
    count = int(prompt is not None)
    if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt):
        count = len(prompt)
    return count + (len(embeddings) if isinstance(embeddings, list) else int(embeddings is not None))


def _completion_text(request: Mapping[str, Any]) -> str | None:
    if prompt_count(request) > 1:
        raise NotComparable("several_prompts")
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else None


def _expectation(value: Any) -> str | None:
    """Return the text that a right answer must contain; a number is converted to text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value).strip() or None


def _form_of(request: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the JSON schema that the answer must follow, if any, and whether it must be JSON.

    vLLM 0.32 reads `response_format` before `structured_outputs`, and `guided_json` no longer; a
    client that sends `guided_json` still expects JSON.
    """
    response_format = mapping_of(request.get("response_format"))
    text_format = mapping_of(mapping_of(request.get("text")).get("format"))
    output_format = mapping_of(mapping_of(request.get("output_config")).get("format"))
    for form, schema in (
        (response_format, mapping_of(response_format.get("json_schema")).get("schema")),
        (text_format, text_format.get("schema")),
        (output_format, output_format.get("schema")),
    ):
        if form.get("type") == "json_schema":
            return _schema(schema), True
        if form.get("type") == "json_object":
            return None, True
    structured = mapping_of(request.get("structured_outputs"))
    for schema in (structured.get("json"), request.get("guided_json")):
        if schema is not None:
            return _schema(schema), True
    return None, structured.get("json_object") is True


def _schema(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            return object_of(value.encode())
        except (NotComparable, UnicodeEncodeError):
            return None
    return value if isinstance(value, dict) else None


def _tool_names(request: Mapping[str, Any]) -> Iterator[str]:
    for tool in mappings_of(request.get("tools")):
        name = text_of(tool.get("name")) or text_of(mapping_of(tool.get("function")).get("name"))
        if name:
            yield name


def _chat_turns(request: Mapping[str, Any]) -> Iterator[Turn]:
    for message in mappings_of(request.get("messages")):
        texts = [_render(message.get("content"))]
        for call in mappings_of(message.get("tool_calls")):
            function = mapping_of(call.get("function"))
            texts.append(_call(function.get("name"), function.get("arguments")))
        yield text_of(message.get("role")), "\n".join(filter(None, texts))


def _responses_turns(request: Mapping[str, Any]) -> Iterator[Turn]:
    if instructions := text_of(request.get("instructions")):
        yield "system", instructions
    if text := text_of(request.get("input")):
        yield "user", text
    for item in mappings_of(request.get("input")):
        kind = item.get("type")
        if kind in ("function_call", "custom_tool_call"):
            yield "assistant", _call(item.get("name"), item.get("arguments", item.get("input")))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            yield "tool", _render(item.get("output"))
        elif "role" in item:
            yield text_of(item.get("role")), _render(item.get("content"))


def _messages_turns(request: Mapping[str, Any]) -> Iterator[Turn]:
    if system := _render(request.get("system")):
        yield "system", system
    for message in mappings_of(request.get("messages")):
        yield text_of(message.get("role")), _render(message.get("content"))


def _no_turns(_request: Mapping[str, Any]) -> Iterator[Turn]:
    return iter(())


_TURNS: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[Turn]]]] = {
    "/v1/chat/completions": _chat_turns,
    "/v1/completions": _no_turns,
    "/v1/responses": _responses_turns,
    "/v1/messages": _messages_turns,
}


def _render(content: Any) -> str:
    """Return a content's text: itself, or its parts one under the other."""
    return text_of(content) or "\n".join(filter(None, map(_part, list_of(content))))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    block = mapping_of(part)
    kind = text_of(block.get("type"))
    if kind == "tool_use":
        return _call(block.get("name"), block.get("input"))
    if kind == "tool_result":
        return _render(block.get("content"))
    if kind in ("thinking", "redacted_thinking", "reasoning"):
        return ""
    return text_of(block.get("text")) or text_of(block.get("refusal")) or (f"[{kind}]" if kind else "")


def _call(name: Any, arguments: Any) -> str:
    return f"[calls {text_of(name)}({'' if arguments is None else json_text_of(arguments)})]"
