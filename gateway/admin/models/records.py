"""Stored records as models of the admin API: what a file may say of them, and how answers show them.

A model of each is made of the record's own fields (`gateway/records/routes.py`), so a new field is in the API's
description by itself. What code holds are the records; pydantic checks and describes them.
"""

import functools
import operator
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StrictInt, StrictStr, create_model
from pydantic_core import core_schema

from gateway.records.declared import DeclaredField, default_of, find_declared_fields, plain_type

M = TypeVar("M", bound=BaseModel)


class CopiedView(BaseModel):
    """A model whose values are read from the attributes of the same names of a value that it shows."""

    model_config = ConfigDict(from_attributes=True)


def view_of(model: type[M], *sources: object, **values: Any) -> M:
    """Return a view whose fields are read from the attributes of the same names of several values.

    Args:
        model: The view's type.
        sources: The values; where two have an attribute of the same name, the first counts.
        values: Fields that the sources lack, or that the view shows otherwise.
    """
    fields = {
        name: getattr(source, name)
        for source in reversed(sources)
        for name in model.model_fields
        if hasattr(source, name)
    }
    return model.model_validate(fields | values)


class AsView:
    """An annotation of a record's type: pydantic reads and writes it by the model of its name, and ignores more fields.

    Args:
        record: The record's type.
        name: The model's, in the API's description.
        about: What the description says of it.
        required: Fields that every answer has; the others are those without a default.
        inside: How records within this one are viewed.
    """

    def __init__(
        self,
        record: type[msgspec.Struct],
        name: str,
        about: str,
        *,
        required: Collection[str] = (),
        inside: Collection["AsView"] = (),
    ) -> None:
        self.record = record
        views = {view.record: view for view in inside}
        fields: dict[str, Any] = {}
        for field in msgspec.structs.fields(record):
            kind, notes = plain_type(field.type)
            default = default_of(field)
            is_required = field.name in required or default is msgspec.NODEFAULT
            about_field = next((note.description for note in notes if isinstance(note, msgspec.Meta)), None)
            fields[field.name] = (
                _view_type(kind, views),
                Field(... if is_required else default, description=about_field),
            )
        config = ConfigDict(from_attributes=True)
        self.model: type[BaseModel] = create_model(name, __config__=config, __doc__=about, **fields)

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            self._record_of,
            handler.generate_schema(self.model),
            serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins),
        )

    def _record_of(self, model: BaseModel) -> msgspec.Struct:
        return self.record(**{name: getattr(model, name) for name in self.record.__struct_fields__})


def _view_type(kind: Any, views: Mapping[Any, AsView]) -> Any:
    """Return a type with every record in it as a view."""
    if kind in views:
        return Annotated[kind, views[kind]]
    parts = tuple(_view_type(part, views) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return get_origin(kind)[parts]
    return functools.reduce(operator.or_, parts) if isinstance(kind, UnionType) else kind


class AsDeclared:
    """An annotation of a mapping that declares a record: pydantic checks its shape by the model of its name.

    Args:
        record: The record's type.
        name: The model's, in the API's description.
        about: What the description says of it.
        inside: How records within this one are declared.
    """

    def __init__(
        self, record: type[msgspec.Struct], name: str, about: str, *, inside: Collection["AsDeclared"] = ()
    ) -> None:
        self.record = record
        models = {declared.record: declared.model for declared in inside}
        fields: dict[str, Any] = {}
        for key, field in find_declared_fields(record).items():
            kind = models[field.policy] if field.how.kind == "policy" else _json_type(field)
            default = ... if field.is_required else field.default if field.how.kind == "choice" else None
            fields[key] = (
                kind | None if default is None else kind,
                Field(
                    default,
                    description=field.how.about,
                    examples=list(field.how.examples) or None,
                    json_schema_extra=_pattern_of(field),
                ),
            )
        self.model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=about, **fields)

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(_dump_given_fields, handler.generate_schema(self.model))


def _dump_given_fields(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(exclude_unset=True)


def _json_type(field: DeclaredField) -> Any:
    match field.how.kind:
        case "share" | "time":
            return StrictInt | StrictStr
        case "limit":
            return StrictInt
        case "names" | "sources":
            return list[StrictStr]
        case "choice":
            return field.value_type
        case "plan":
            return StrictStr | dict[str, Any]
        case "field_rules":
            return dict[str, StrictStr | StrictInt]
        case _:
            return StrictStr


def _pattern_of(field: DeclaredField) -> dict[str, Any] | None:
    """Return the pattern of an alias or a version, for whoever reads the description; the reader's words are better."""
    if field.how.kind not in ("alias", "version") or field.how.pattern is None:
        return None
    return {"pattern": f"^{field.how.pattern.pattern}$"}
