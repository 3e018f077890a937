"""The notation in files of the fields of a route and its policies, declared once beside each field's type.

Code that reads or writes a file, describes the API or shows a change uses these declarations, so that a new field is
one line of a record in `routes.py`.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

# The notation of a value. In order: `5%`, `7d`, a whole number from 1, free text, text that matches a pattern, a URL, a
# list of names, one of a few words, a nested policy; the others occur in routes only.
Kind = Literal[
    "share",
    "time",
    "limit",
    "text",
    "match",
    "url",
    "names",
    "choice",
    "policy",
    "alias",
    "version",
    "sources",
    "plan",
    "field_rules",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The notation of a field in files, and its display.

    Attributes:
        kind: The notation of the value.
        key: The field's name in a file; empty if it is the record's.
        about: What the API's description says of the field.
        examples: For the API's description.
        pattern: What a text has to match, and for versions and aliases what the API's description says of it.
        example: A value as people write it, for messages about one that cannot be read.
        missing: The error text where a required field is left out.
        longest: The largest number of characters of a text; for names, how many characters of each are shown.
        is_always_written: Written into a file even if it is the default.
        words: The format of the value within a line; empty if it is not shown.
        no_names: How an empty list of names is shown.
    """

    kind: Kind
    key: str = ""
    about: str | None = None
    examples: tuple[Any, ...] = ()
    pattern: re.Pattern[str] | None = None
    example: str = ""
    missing: str = ""
    longest: int = 100
    is_always_written: bool = False
    words: str = "{}"
    no_names: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredField:
    """A field of a record with its notation; `default` is `msgspec.NODEFAULT` if the field is required."""

    name: str
    key: str
    value_type: Any
    default: Any
    how: Declared

    @property
    def is_required(self) -> bool:
        """Whether a file has to give it."""
        return self.default is msgspec.NODEFAULT or bool(self.how.missing)

    @property
    def policy(self) -> type[msgspec.Struct]:
        """The record that a field of the kind `policy` holds."""
        found: type[msgspec.Struct] = next(each for each in get_args(self.value_type) if each is not type(None))
        return found


@functools.cache
def find_declared_fields(record: type[msgspec.Struct]) -> Mapping[str, DeclaredField]:
    """Return the fields of a record that have a `Declared` note, by their names in a file."""
    found = {}
    for field in msgspec.structs.fields(record):
        kind, notes = plain_type(field.type)
        how = next((note for note in notes if isinstance(note, Declared)), None)
        if how is not None:
            key = how.key or field.name
            found[key] = DeclaredField(name=field.name, key=key, value_type=kind, default=default_of(field), how=how)
    return found


def plain_type(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type of an annotation without `Annotated`, and the notes of `Annotated`."""
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        return kind, tuple(notes)
    return annotation, ()


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return a field's default; `msgspec.NODEFAULT` if there is none."""
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
