"""Check that the tree has the shape of its file, and explain every error in a plain sentence.

The checks take their advice from here too: `example` returns an example of a field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, get_args, get_origin

from psicli.config.document import Document, Loc, as_yaml
from psicli.config.fields import MAX_NAME
from psicli.config.model import FieldInfo, Model
from psicli.config.model.kinds import MISSING, OTHER_KIND, UNKNOWN, Fault
from psicli.config.models import JobFile
from psicli.core.errors import shown

ANY = "*"


def _models_in(kind: Any, loc: Loc) -> Iterator[tuple[Loc, type[Model]]]:
    """Yield the models in the type of a place, and in the fields of these models, with their places.

    A position in a list is 0, and a name that users choose is ANY.
    """
    if isinstance(kind, type) and issubclass(kind, Model):
        yield loc, kind
        for name, part in kind.kinds().items():
            yield from _models_in(part, (*loc, name))
    steps: dict[Any, Loc] = {tuple: (0,), dict: (ANY,)}
    for part in get_args(kind):
        yield from _models_in(part, (*loc, *steps.get(get_origin(kind), ())))


class Shape:
    """What a file may hold: the model of the whole file, and an example of a field for a file that holds none.

    meant: names that users write for fields that have another name.
    """

    def __init__(self, whole: type[Model], example: str, meant: Mapping[str, str] = MappingProxyType({})) -> None:
        self._whole, self._example, self._meant = whole, example, meant

    @cached_property
    def models(self) -> dict[Loc, type[Model]]:
        """The model of every place that holds fields. Only mistakes and examples need it."""
        return dict(_models_in(self._whole, ()))

    def check(self, document: Document) -> None:
        """Blame every value that its model refuses, every missing field and every unknown field."""
        faults: list[Fault] = []
        self._whole.check(document.root, (), faults)
        for fault in faults:
            document.blame(fault.loc, *self._explain(fault, document.get(*fault.loc)))

    def example(self, loc: Loc) -> str:
        """Return an example of the field at a place, or of the nearest enclosing field, as YAML on one line."""
        for end in range(len(loc), 0, -1):
            field = self._fields_of(loc[: end - 1]).get(str(loc[end - 1]))
            if field is not None and field.examples:
                return f"{loc[end - 1]}: {as_yaml(field.examples[0])}"
        return self._example

    def _explain(self, fault: Fault, value: Any) -> tuple[str, str]:
        """Return what is wrong and what would be right."""
        loc = fault.loc
        if fault.what == MISSING:
            return "is missing", f"add it, for example `{self.example(loc)}`"
        if fault.what == UNKNOWN:
            fields = list(self._fields_of(loc[:-1]))
            name = str(loc[-1])[:MAX_NAME]
            meant = self._meant.get(name, "")
            close = [meant] if meant in fields else difflib.get_close_matches(name, fields, n=1)
            elsewhere = self._places_of(name)
            if close:
                return "unknown field", f"did you mean {close[0]}{elsewhere and f', or does it belong {elsewhere}'}?"
            return (
                "unknown field",
                f"{elsewhere and f'it belongs {elsewhere}; '}the fields here are {', '.join(fields)}",
            )
        if fault.what != OTHER_KIND:
            return "is empty" if value == "" else fault.what, fault.right
        if not loc and isinstance(value, str):
            # It may be a file of data, whose text must not get into a message.
            return "holds no fields", f"give a YAML file with fields such as `{self.example(loc)}`"
        if isinstance(value, str):
            found = f"the text {shown(value, 40)}" if value else "empty"
        else:
            found = "a mapping" if isinstance(value, dict) else "a list"
        return f"is {found}", fault.right or f"write it like `{self.example(loc)}`"

    def _places_of(self, name: str) -> str:
        """Return all places that have a field of this name, in words."""
        found = (_in_words(place) for place, model in self.models.items() if name in model.model_fields)
        return ", or ".join(dict.fromkeys(found))

    def _fields_of(self, loc: Loc) -> dict[str, FieldInfo]:
        steps = [0 if isinstance(step, int) else step for step in loc]
        for place, model in self.models.items():
            if len(place) == len(steps) and all(mine in (ANY, step) for mine, step in zip(place, steps, strict=True)):
                return model.model_fields
        return {}


def _in_words(place: Loc) -> str:
    names = ".".join(step for step in place if isinstance(step, str) and step != ANY)
    if not names:
        return "at the top level"
    return f"in an entry of `{names}`" if isinstance(place[-1], int) else f"under `{names}`"


JOB_FILE = Shape(JobFile, "job: nightly-overlap")
example = JOB_FILE.example


def check_shape(document: Document) -> None:
    """Blame everything that no job file holds."""
    if is_batch(document):
        document.fail("is a batch file", f"run it with `psicli batch {document.shown_path}`")
    tls = document.get("cluster", "tls")
    if isinstance(tls, dict) and "insecure" in tls:
        document.blame(("cluster", "tls"), "is a mapping that holds insecure", "write `tls: insecure`")
    elif isinstance(tls, str) and tls != "insecure":
        right = "name three files under it, remove it if both parties are on this machine, or write `tls: insecure`"
        document.blame(("cluster", "tls"), f"is the text {shown(tls, 40)}", right)
    workers = document.get("pipeline", "workers")
    if isinstance(workers, str) and workers != "threads":
        right = "write `workers: threads`, or `workers: {ray: auto}` for workers on a Ray cluster"
        document.blame(("pipeline", "workers"), f"is the text {shown(workers, 40)}" if workers else "is empty", right)
    for task in document.entries("tasks"):
        _check_keys(document, task)
    JOB_FILE.check(document)


def _check_keys(document: Document, task: Loc) -> None:
    """Blame what people write who forget that key columns are in a list, and that a form is for both parties."""
    for party, columns in document.table(*task, "keys").items():
        if isinstance(columns, dict) and "column" in columns:
            right = f"put it in a list, as in `{party}: [{{column: mail, normalize: email}}]`"
            document.blame((*task, "keys", party), "is a single column", right)
    if isinstance(document.get(*task, "key_form"), dict):
        right = f"name one form for both parties, as in `{example((*task, 'key_form'))}`"
        document.blame((*task, "key_form"), "is a mapping", right)


def is_batch(document: Document) -> bool:
    """Return whether a file lists jobs, as a batch file does, and no nodes, as a job file does."""
    return "jobs" in document.table() and "cluster" not in document.table()
