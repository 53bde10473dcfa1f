"""What the models of all sections of a job file have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    # Only the model of a whole file is built, when it is used; the others are parts of it.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def field(description: str, *examples: Any, default: Any = ..., **more: Any) -> Any:
    """Describe a field; its default serves as the example if there is no other."""
    return Field(default, description=description, examples=list(examples) or [default], **more)


def optional(description: str, *examples: Any, **more: Any) -> Any:
    """Describe a field that may be left out."""
    return field(description, *examples, default=None, **more)
