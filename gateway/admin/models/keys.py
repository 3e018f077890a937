"""Replies of the admin API about keys, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

from typing import Literal

from pydantic import BaseModel, Field

from gateway.decide.authenticate import Role


class KeyView(BaseModel):
    """A key as it may be shown."""

    id: str = Field(examples=["key-0a1b2c3d4e5f"])
    role: Role
    name: str
    models: list[str] | None = Field(description="The only models it may use; null for all")
    created: int = Field(description="Unix seconds")
    expires: int | None = Field(description="Unix seconds from which on it is refused; null for never")
    state: Literal["active", "expired"]
    requests_per_minute: int | None = Field(description="Null for no limit")
    tokens_per_minute: int | None = Field(description="Null for no limit")
    engine_fields: dict[str, str | int] = Field(description="Rules for fields that engines are sent")
    replaced_by: str | None = Field(description="Id of the key that a rotation put in its place")


class MadeKey(KeyView):
    """A new key. `key` is shown this once."""

    key: str = Field(description="The key itself, which is kept nowhere", examples=["sk-loragate-…"])


class KeysView(BaseModel):
    """A page of keys, oldest first."""

    keys: list[KeyView]
    next: str | None = Field(description="`after` of the next page; null after the last")


class Revoked(BaseModel):
    """The key that was revoked."""

    revoked: str = Field(examples=["key-0a1b2c3d4e5f"])
