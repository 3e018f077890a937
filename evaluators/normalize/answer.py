"""The parsed content of a reply, independent of the API; filled by each API's reader."""

from dataclasses import dataclass, field

from evaluators.observation import ToolCall


@dataclass(slots=True)
class CallParts:
    """One tool call as its pieces arrive."""

    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ParsedAnswer:
    """The first choice of a reply, in pieces as they arrive.

    Attributes:
        texts: Pieces of its text, reasoning excluded.
        calls: Its tool calls by their place; they come in the order of places.
        finish_reason: In the words of chat completions (`stop`, `length`, `tool_calls`, `content_filter`).
        prompt_tokens, completion_tokens: As counted by the engine, of all choices together.
        prompt_ids, token_ids: Token ids, None as long as none were told.
        choices: How many choices the reply has, as far as seen.
    """

    texts: list[str] = field(default_factory=list)
    calls: dict[int, CallParts] = field(default_factory=dict)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: list[int] | None = None
    choices: int = 0

    def call(self, place: int) -> CallParts:
        """Return the call at a place, a new one if there is none yet."""
        return self.calls.setdefault(place, CallParts())

    def add_ids(self, ids: tuple[int, ...] | None) -> None:
        """Add generated tokens' ids, if there are any."""
        if ids:
            if self.token_ids is None:
                self.token_ids = []
            self.token_ids.extend(ids)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls that have a name, by their places."""
        parts = [self.calls[place] for place in sorted(self.calls)]
        return tuple(ToolCall(name=call.name, arguments="".join(call.arguments)) for call in parts if call.name)
