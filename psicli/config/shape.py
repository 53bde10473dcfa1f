"""Check with pydantic that the tree has the shape of a job file, and explain every error in a plain sentence.

The checks take their advice from here too: `example` returns an example of a field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from psicli.config.document import Document, Loc, as_yaml
from psicli.config.fields import MAX_NAME, TAGS
from psicli.config.models import JobFile
from psicli.core.errors import shown


def _models_in(kind: Any, loc: Loc) -> Iterator[tuple[Loc, type[BaseModel]]]:
    """Yield the models in the type of a place, and in the fields of these models, with their places."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield loc, kind
        for name, field in kind.model_fields.items():
            yield from _models_in(field.annotation, (*loc, name))
    for part in get_args(kind):
        yield from _models_in(part, (*loc, 0) if get_origin(kind) is tuple else loc)


# The model of every place that holds fields; every position in a list is 0.
MODELS: dict[Loc, type[BaseModel]] = dict(_models_in(JobFile, ()))


def check_shape(document: Document) -> None:
    """Blame every value that its model refuses, every missing field and every unknown field."""
    tls = document.get("cluster", "tls")
    if isinstance(tls, dict) and "insecure" in tls:
        document.blame(("cluster", "tls"), "is a mapping that holds insecure", "write `tls: insecure`")
    elif isinstance(tls, str) and tls != "insecure":
        right = "name three files under it, remove it if both parties are on this machine, or write `tls: insecure`"
        document.blame(("cluster", "tls"), f"is the text {shown(tls, 40)}", right)
    try:
        JobFile.model_validate(document.root)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            loc = tuple(step for step in error["loc"] if step not in TAGS)
            document.blame(loc, *_explain(loc, document.get(*loc), error["type"], error.get("ctx", {})))


def _explain(loc: Loc, value: Any, kind: str, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is wrong and what would be right, for a pydantic error."""
    if kind == "psicli":
        return facts["what"], facts["right"]
    if kind == "missing":
        return "is missing", f"add it, for example `{example(loc)}`"
    if kind == "extra_forbidden":
        fields = list(_fields_of(loc[:-1]))
        close = difflib.get_close_matches(str(loc[-1])[:MAX_NAME], fields, n=1)
        return "unknown field", f"did you mean {close[0]}?" if close else f"the fields here are {', '.join(fields)}"
    if kind == "too_short":
        return "is empty", "give at least one path"
    if "ge" in facts or "le" in facts:
        bound = f"at least {facts['ge']}" if "ge" in facts else f"at most {facts['le']}"
        return f"{value} is out of range", f"give {bound}"
    if "multiple_of" in facts:
        return f"{value} is not a multiple of {facts['multiple_of']}", f"give a multiple of {facts['multiple_of']}"
    if not loc and isinstance(value, str):
        # It may be a file of data, whose text must not get into a message.
        return "holds no fields", f"give a YAML file with fields such as `{example(loc)}`"
    if isinstance(value, str):
        found = f"the text {shown(value, 40)}"
    else:
        found = "a mapping" if isinstance(value, dict) else "a list"
    return f"is {found}", f"write it like `{example(loc)}`"


def example(loc: Loc) -> str:
    """Return an example of the field at a place, or of the nearest enclosing field, as YAML on one line."""
    for end in range(len(loc), 0, -1):
        field = _fields_of(loc[: end - 1]).get(str(loc[end - 1]))
        if field is not None and field.examples:
            return f"{loc[end - 1]}: {as_yaml(field.examples[0])}"
    return "job: nightly-overlap"


def _fields_of(loc: Loc) -> dict[str, FieldInfo]:
    model = MODELS.get(tuple(0 if isinstance(step, int) else step for step in loc))
    return model.model_fields if model else {}
