"""The base of every settings section: strict, frozen, and able to tell what changes rows from what does not."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def runtime(default: Any, **constraints: Any) -> Any:
    """A field that cannot change rows (batch size, threads, a path whose content is digested): no part of any key."""
    return Field(default, json_schema_extra={"runtime": True}, **constraints)


class Settings(BaseModel):
    """Settings of one part of a recipe. Unknown names and wrong types are errors that name the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def row_settings(self) -> dict[str, Any]:
        """The fields that change rows, as JSON values: what goes into a key."""
        fields = type(self).model_fields
        kept = {name for name, field in fields.items() if not _is_runtime(field.json_schema_extra)}
        return self.model_dump(mode="json", include=kept)


def _is_runtime(extra: Any) -> bool:
    return isinstance(extra, dict) and bool(extra.get("runtime"))
