"""The JSON Schemas of the job file and the batch file, as users write them: a field is left out, and never null."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from psicli.config.batch.models import BatchFile
from psicli.config.model import FieldInfo, Model, Value
from psicli.config.model.kinds import Bounds, SchemaIs, SchemaWith, alternatives, parts
from psicli.config.models import JobFile

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Path: {"format": "path", "type": "string"},
}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "multiple_of": "multipleOf"}


def job_schema() -> Schema:
    """Return the JSON Schema of a job file."""
    return _schema_of(JobFile)


def batch_schema() -> Schema:
    """Return the JSON Schema of a batch file."""
    return _schema_of(BatchFile)


def _schema_of(model: type[Model]) -> Schema:
    definitions: dict[str, Schema] = {}
    whole = _of_model(model, definitions)
    return {"$schema": _DIALECT, "$defs": dict(sorted(definitions.items())), **whole}


def _of_model(model: type[Value], definitions: dict[str, Schema]) -> Schema:
    fields = model.model_fields
    properties = {name: _of_field(name, fields[name], kind, definitions) for name, kind in model.kinds().items()}
    required = [name for name, info in fields.items() if info.is_required()]
    return {
        "additionalProperties": False,
        "description": " ".join((model.__doc__ or "").split()),
        "properties": properties,
        **({"required": required} if required else {}),
        "title": model.title,
        "type": "object",
    }


def _of_field(name: str, info: FieldInfo, kind: Any, definitions: dict[str, Schema]) -> Schema:
    schema = {
        **_of_kind(kind, definitions),
        **_of_bounds(Bounds(**info.bounds)),
        "description": info.description,
        "examples": [_plain(example) for example in info.examples],
        **info.schema,
    }
    if info.has_default and info.default is not None:
        schema["default"] = _plain(info.default)
    if "$ref" not in schema:
        schema["title"] = name.replace("_", " ").title()
    return dict(sorted(schema.items()))


def _of_kind(kind: Any, definitions: dict[str, Schema]) -> Schema:
    kind, beside = parts(kind)
    for each in beside:
        if isinstance(each, SchemaIs):
            return dict(each.keywords)
    schema = _of_type(kind, definitions)
    for each in beside:
        if isinstance(each, Bounds):
            schema |= _of_bounds(each)
        elif isinstance(each, SchemaWith):
            schema |= each.keywords
    return dict(sorted(schema.items()))


def _of_type(kind: Any, definitions: dict[str, Schema]) -> Schema:
    origin = get_origin(kind)
    if origin is tuple:
        return {"items": _of_kind(get_args(kind)[0], definitions), "type": "array"}
    if origin is dict:
        return {"additionalProperties": _of_kind(get_args(kind)[1], definitions), "type": "object"}
    if origin is Literal:
        words = list(get_args(kind))
        return {"const": words[0], "type": "string"} if len(words) == 1 else {"enum": words, "type": "string"}
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if isinstance(kind, type) and issubclass(kind, Value):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _of_model(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    members = [_of_kind(member, definitions) for member in alternatives(kind) if member is not NoneType]
    return members[0] if len(members) == 1 else {"oneOf": members}


def _of_bounds(bounds: Bounds) -> Schema:
    found = {word: getattr(bounds, name) for name, word in _BOUNDS.items() if getattr(bounds, name) is not None}
    return {**found, **({"minItems": bounds.min_length} if bounds.min_length else {})}


def _plain(value: Any) -> Any:
    """Return a default or an example as JSON holds it."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in sorted(value.items())}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
