"""The references of the job file and the batch file, made from their JSON Schemas.

Every field has a heading, a few facts and an example.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from psicli.config import DNS_NAME, NAME
from psicli.config.schema import batch_schema, job_schema

Schema = dict[str, Any]
# The path to a field: names of fields, and 0 for "every entry of a list".
Path = tuple[str | int, ...]

# The party of an example.
PARTY = "alice"
# The field without which an entry of a list or a section means nothing; an example shows it before its own field.
IDENTITY = {
    "nodes": {"party": "alice"},
    "tasks": {"name": "customers"},
    "jobs": {"config": "jobs/carol.yaml"},
    "workers": {"ray": "auto"},
    PARTY: {"column": "mail"},
}
# The section that a task may repeat.
REPEATED = "CsvSettings"
# The lists of a batch file, which are empty by default.
COLLECTIONS = ("only", "after", "before", "on_error")
# The fields that hold a value for each party.
PER_PARTY = ("keys", "input_path", "output_path")
# A longer value goes to its own line [characters].
MAX_LINE = 80


def reference() -> str:
    """Return the sections of docs/job-file.md, in the order of the schema."""
    return _reference(job_schema(), "The job file holds these three fields and the sections below.")


def batch_reference() -> str:
    """Return the sections of docs/batch-file.md, in the order of the schema."""
    text = _reference(batch_schema(), "The batch file holds these fields and the sections below.")
    return text.replace("](#names)", "](job-file.md#names)")


def _reference(schema: Schema, intro: str) -> str:
    definitions = schema["$defs"]
    # The sections in the order in which the file mentions them, not by name.
    text = json.dumps(schema["properties"])
    tables = sorted(definitions.items(), key=lambda pair: len(text.partition(f'/{pair[0]}"')[0]))
    order = [name for table in (schema, *dict(tables).values()) for name in table["properties"]]
    return "\n\n".join(["## Top level", intro, *_fields(schema, definitions, (), order)])


def _fields(table: Schema, definitions: Schema, path: Path, order: Sequence[str]) -> Iterator[str]:
    """Yield an entry for every field of a table, and then a section for every field that holds a table itself."""
    sections = []
    for name, field in table["properties"].items():
        below, inner = _table(field)
        # A section that appears twice is described once, at its shortest path.
        inner = None if inner == REPEATED and path else inner
        here, required = (*path, name), name in table.get("required", ())
        if inner is None:
            yield _entry(f"### `{name}`", here, field, required, order)
        else:
            sections.append(_entry(f"## `{_name(here)}`", here, field, required, order))
            sections += _fields(definitions[inner], definitions, (*here, *below), order)
    yield from sections


def _table(field: Schema) -> tuple[Path, str | None]:
    """Return the definition a field refers to, if any, and what to add to its path: 0 for a list, or a party."""
    if "$ref" in field:
        return (), field["$ref"].rpartition("/")[2]
    if "items" in field:
        below, inner = _table(field["items"])
        return (0, *below), inner
    if isinstance(field.get("additionalProperties"), dict):
        below, inner = _table(field["additionalProperties"])
        return (PARTY, *below), inner
    for option in field.get("oneOf", ()):
        if "$ref" in option:
            return (), option["$ref"].rpartition("/")[2]
    return (), None


def _entry(heading: str, path: Path, field: Schema, required: bool, order: Sequence[str]) -> str:
    """Return the heading, facts, description and examples of a field."""
    kind = _kind(field)
    facts = f"{kind[0].upper()}{kind[1:]}. {'Required.' if required else _default(path, field)}"
    parts = [heading, f"*{facts}*", field["description"]]
    examples = [_nested(path, _ordered(example, order)) for example in field["examples"]]
    return "\n\n".join([*parts, *(f"```yaml\n{_yaml(example)}\n```" for example in examples)])


def _default(path: Path, field: Schema) -> str:
    default = field.get("default")
    if default in (None, {}) or (default == [] and path[-1] in COLLECTIONS):
        return "Optional."
    if _is_duration(field):
        minutes, seconds = divmod(default, 60)
        return f"Default: `{default}s`." if seconds or not minutes else f"Default: `{minutes}m`."
    minutes = f" ({_duration(default)})" if str(path[-1]).endswith("_ms") else ""
    return f"Default: `{_scalar(default)}`{minutes}."


def _is_duration(field: Schema) -> bool:
    return "maximum" in (field.get("anyOf") or [{}])[-1]


def _duration(milliseconds: int) -> str:
    unit, size = ("minute", 60_000) if milliseconds >= 60_000 else ("second", 1000)
    count = milliseconds // size
    return f"{count} {unit}" + ("" if count == 1 else "s")


def _kind(field: Schema) -> str:
    """Return what a field holds, in words."""
    if field.get("pattern") == f"^{NAME}$":
        return "a [name](#names)"
    if field.get("pattern") == f"^{DNS_NAME}$":
        return "a DNS name"
    if field.get("format") == "path":
        return "a path"
    if "oneOf" in field:
        return " or ".join(_kind(option) for option in field["oneOf"])
    if "anyOf" in field:
        what, unit = ("a duration", "seconds") if _is_duration(field) else ("an amount", "bytes")
        return f"{what} such as `{field['examples'][0]}`, or a number of {unit}"
    if "enum" in field:
        return " or ".join(f"`{word}`" for word in field["enum"])
    if "const" in field:
        return f"the word `{field['const']}`"
    if str(field.get("pattern")).startswith("^https?:"):
        return "a web address"
    if "propertyNames" in field:
        return "a text for each variable"
    if "additionalProperties" in field:
        return f"for each party, {_values(field['additionalProperties'])}"
    if "$ref" in field:
        return "a section"
    if field["type"] == "array" and "minItems" not in field:
        return "a list of " + _kinds(field["items"])
    if field["type"] == "array":
        return f"a list of {'two' if field.get('maxItems') == 2 else 'at least one'}"
    return {"boolean": "`true` or `false`", "string": "text"}.get(field["type"]) or _number(field)


def _kinds(field: Schema) -> str:
    """Return what a list holds, in words."""
    if field.get("pattern") == f"^{NAME}$":
        return "[names](#names)"
    return "commands" if field["type"] == "array" else "texts"


def _values(field: Schema) -> str:
    if "oneOf" in field:
        return "a path or a list of paths"
    if field["type"] == "string":
        return "text"
    if "oneOf" in field["items"]:
        return f"a list of {field['minItems']} to {field['maxItems']} columns, each a name or a section"
    return f"a list of {field['minItems']} to {field['maxItems']} column names"


def _number(field: Schema) -> str:
    if field["type"] == "number":
        if "minimum" in field:
            return f"a number from {field['minimum']:.0f} to {field['maximum']:.0f}"
        return f"a decimal fraction above {field['exclusiveMinimum']} and at most {field['maximum']}"
    least, most = f"{field['minimum']:,}", f"{field['maximum']:,}" if "maximum" in field else None
    return f"a whole number from {least} to {most}" if most else f"a whole number, at least {least}"


def _name(path: Path) -> str:
    """Return the path of a section: cluster.nodes."""
    return ".".join(str(step) for step in path if step not in (0, PARTY))


def _nested(path: Path, value: Any) -> Any:
    """Return a fragment of a file that holds a value at a path."""
    for before, step in reversed(list(zip(("", *path), path, strict=False))):
        known = IDENTITY.get(str(before), {})
        value = [{**known, **value}] if step == 0 else {**known, step: value}
    return value


def _ordered(value: Any, order: Sequence[str]) -> Any:
    """Return a value with its fields in the order of the schema, which sorts those of its examples by name."""
    if isinstance(value, list):
        return [_ordered(each, order) for each in value]
    if not isinstance(value, dict):
        return value
    names = sorted(value, key=lambda name: order.index(name) if name in order else -1)
    return {name: _ordered(value[name], order) for name in names}


def _yaml(value: Any, indent: str = "") -> str:
    """Return YAML as people write it: one field per line, but short lists and the parties' values on one line."""
    if isinstance(value, list):
        return "\n".join(f"{indent}- {_yaml(each, indent + '  ').lstrip()}" for each in value)
    if not isinstance(value, dict):
        return _scalar(value)
    return "\n".join(f"{indent}{name}:{_value(name, each, indent)}" for name, each in value.items())


def _value(name: str, value: Any, indent: str) -> str:
    tables = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value))
    if name not in PER_PARTY and value and tables:
        return f"\n{_yaml(value, indent + '  ')}"
    line = f" {_scalar(value)}"
    return line if len(indent + name + ":" + line) <= MAX_LINE else f"\n{indent} {line}"


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_scalar(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    text = json.dumps(value)
    return text if isinstance(value, str) and set(value) & set("{}[]:,;\\") else text.strip('"')
