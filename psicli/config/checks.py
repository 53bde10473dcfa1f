"""Check that the fields of a job file fit each other and the party that runs here.

The checks read the plain tree, not the models, so that they also work on a file with errors elsewhere; they skip
fields that are missing or broken. An empty list of parties means that not all parties are known. No file is opened.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from psicli.config.document import Document, Loc, field_name
from psicli.config.fields import MAX_NAME, is_loopback, split_address, to_seconds
from psicli.config.shape import example
from psicli.core.errors import ArgumentError, counted, shown
from psicli.core.records import dataclass
from psicli.items.forms.names import HASHED, SHA256, Form, parse_form

# How many tasks the message about an unknown one names.
MAX_TASKS_SHOWN = 20

# Parties and addresses -----------------------------------------------------------------------------------------


def check_nodes(document: Document) -> list[str]:
    """Check the nodes; return the names of the parties, or an empty list if one of them is unknown."""
    nodes = document.entries("cluster", "nodes")
    named = [document.text(*node, "party") for node in nodes]
    for index, (node, party) in enumerate(zip(nodes, named, strict=True)):
        if party is not None and party in named[:index]:
            what = f"{shown(party)} is the party of another node too"
            document.blame((*node, "party"), what, "give every node a different party")
        entry = document.get(*node)
        if index == 0 and isinstance(entry, dict) and "address" not in entry:
            right = f"the other party dials it; add it, for example `{example((*node, 'address'))}`"
            document.blame((*node, "address"), "is missing", right)
        if index > 0 and document.text(*node, "listen_address") is not None:
            right = "only the first node listens; remove this field or swap the nodes"
            document.blame((*node, "listen_address"), "has no effect here", right)
    _check_tls_names(document, nodes, named)
    if document.get("cluster", "nodes") is not None and len(nodes) != 2:
        right = "psicli runs between exactly two parties; list two nodes"
        document.note(("cluster", "nodes"), f"the number of nodes is {len(nodes)}", right)
    return list(dict.fromkeys(filter(None, named))) if all(named) else []


def _check_tls_names(document: Document, nodes: Sequence[Loc], named: Sequence[str | None]) -> None:
    """Refuse a certificate name that both parties share: each could impersonate the other."""
    names = [document.text(*node, "tls_name") or party for node, party in zip(nodes, named, strict=True)]
    folded = [name.lower() if name else None for name in names]
    for index, (node, name) in enumerate(zip(nodes, folded, strict=True)):
        if document.text(*node, "tls_name") and folded.count(name) > 1 and named[index] is not None:
            what = f"{shown(names[index] or '')} is the certificate name of another node too"
            document.blame((*node, "tls_name"), what, "give every party a different name")


def check_pins(document: Document) -> None:
    """Refuse to pin certificates that the job does not use, and one certificate for both parties."""
    pinned: dict[str, Loc] = {}
    for node in document.entries("cluster", "nodes"):
        loc = (*node, "certificate_sha256")
        value = document.get(*loc)
        if value is not None and not isinstance(document.get("cluster", "tls"), dict):
            document.blame(loc, "has no effect without certificates", "add cluster.tls, or remove this field")
        for text in (value if isinstance(value, list) else [value]) if value else []:
            digest = re.sub("[ :]", "", str(text)).lower()
            if pinned.setdefault(digest, node) != node:
                document.blame(loc, "lists a certificate of the other node", "a certificate belongs to one party")


def check_addresses(document: Document) -> None:
    """Refuse plain text between machines unless the file allows it."""
    for node in document.entries("cluster", "nodes"):
        for name in ("address", "listen_address"):
            text = document.text(*node, name)
            if text is None:
                continue
            if "tls" not in document.table("cluster") and not is_loopback(split_address(text)[0]):
                what = f"{shown(text)} is not a loopback address, and there is no tls"
                right = "add cluster.tls, or use 127.0.0.1 (`tls: insecure` sends everything in plain text)"
                document.blame((*node, name), what, right)


def check_self_party(document: Document, parties: Sequence[str]) -> None:
    """Check that the file names the party that runs here, and that it belongs to the job."""
    if document.text("self_party") is None:
        listed = " or ".join(parties) or "one of cluster.nodes"
        # If the field is there and wrong, it is blamed already and this call has no effect.
        right = f"add it, or give --party ({listed})"
        right += f", or set party in {document.batch}" if document.batch else ""
        document.blame(("self_party",), "is missing", right)
    else:
        _check_known(document, ("self_party",), parties)


def check_port_offset(document: Document, offset: int) -> None:
    """Check every port of a file without errors with --port-offset; raises ArgumentError."""
    for node in document.entries("cluster", "nodes"):
        for loc in ((*node, "address"), (*node, "listen_address")):
            text = document.text(*loc)
            port = offset + (split_address(text)[1] if text is not None else 0)
            if text is not None and not 1 <= port <= 65535:
                fault = f"with {offset}, the port of {text} is {port} (line {document.line(loc)})"
                raise ArgumentError(option="--port-offset", fault=fault, advice="A port is from 1 to 65535.")


def check_arguments(
    document: Document, party: str | None, parties: Sequence[str], only: Sequence[str], slots: Sequence[Slot]
) -> None:
    """Check --party and --only against a file without errors; raises ArgumentError."""
    if party is not None and party not in parties:
        fault = f"{shown(party)} is not a party of this job (line {document.line(('cluster', 'nodes'))})"
        raise ArgumentError(option="--party", fault=fault, advice=f"The parties are {' and '.join(parties)}.")
    names = [slot.name for slot in slots]
    for name in only:
        if name not in names:
            fault = f"{shown(name)} is not a task of this job (line {document.line(('tasks',))})"
            listed = ", ".join(names[:MAX_TASKS_SHOWN]) + (", …" if len(names) > MAX_TASKS_SHOWN else "")
            close = difflib.get_close_matches(name[:MAX_NAME], names, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"The tasks are {listed}."
            raise ArgumentError(option="--only", fault=fault, advice=advice)


def check_receivers(document: Document, parties: Sequence[str]) -> None:
    """Check that every receiver is a party."""
    for loc in (("psi",), *document.entries("tasks")):
        _check_known(document, (*loc, "receiver"), parties)


def _check_known(document: Document, loc: Loc, parties: Sequence[str]) -> None:
    name = document.text(*loc)
    if name is not None and parties and name not in parties:
        document.blame(loc, f"{shown(name)} is not a party of this job", f"give {' or '.join(parties)}")


# Tasks ---------------------------------------------------------------------------------------------------------


def check_task(document: Document, loc: Loc, party: str, parties: Sequence[str]) -> None:
    """Check which parties a task names, and that it names those it must."""
    for kind in ("keys", "input_path", "output_path"):
        for other in document.table(*loc, kind):
            if parties and other not in parties:
                right = f"the parties are {' and '.join(parties)}"
                document.blame((*loc, kind, other), f"{shown(other)} is not a party of this job", right)
    if party in parties:
        for kind in ("keys", "input_path"):
            entries = document.get(*loc, kind)
            if isinstance(entries, dict) and party not in entries:
                right = f"this party runs here; add its entry, for example `{_example_of_entry(kind, party)}`"
                document.blame((*loc, kind, party), "is missing", right)
    _check_result(document, loc, party if party in parties else None)
    columns = {other: len(document.entries(*loc, "keys", other)) for other in document.table(*loc, "keys")}
    counts = {other: count for other, count in columns.items() if count}
    if len(set(counts.values())) > 1:
        listed = " and ".join(f"{count} for {other}" for other, count in counts.items())
        document.blame((*loc, "keys"), f"the number of key columns is {listed}", "give both parties the same number")
    _check_forms(document, loc)


def _example_of_entry(kind: str, party: str) -> str:
    """Return an example of a party's own entry in a field of a task, as YAML on one line."""
    values = {"keys": "[id]", "input_path": "in/customers.csv", "output_path": "out/customers.csv"}
    return f"{kind}: {{{party}: {values[kind]}}}"


def _check_forms(document: Document, task: Loc) -> None:
    """Check that the forms of key columns fit each other, and that the entries of both parties would agree."""
    columns = {party: document.entries(*task, "keys", party) for party in document.table(*task, "keys")}
    _check_number_of_forms(document, (*task, "key_form"), max(map(len, columns.values()), default=0))
    agreed: dict[int, tuple[str, Form]] = {}
    for party, entries in columns.items():
        for index, entry in enumerate(entries):
            if not document.is_sound(entry) or not document.is_sound(_place_of_form(document, task, index)):
                continue
            try:
                form = _form(document, task, entry)
            except _UnfitError as exc:
                document.blame((*entry, "normalize"), *exc.args)
                continue
            first, other = agreed.setdefault(index, (party, form))
            if form.agreed != other.agreed:
                what = f"is compared as {form.agreed}, and the column of {first} as {other.agreed}"
                named = form.agreed if other.is_text else other.agreed
                right = f"give both columns one form, for example with `key_form: [{named}]`"
                document.blame(entry, what, right)


def _check_number_of_forms(document: Document, loc: Loc, columns: int) -> None:
    forms = document.get(*loc)
    number = len(forms) if isinstance(forms, list) else 1
    if forms is not None and columns not in (0, number):
        what = f"the number of forms is {number}, and the number of key columns is {columns}"
        document.blame(loc, what, "give a list with one form for each key column")


class _UnfitError(ValueError):
    """What is wrong with the `normalize` of a column, and what would be right."""


def _form(document: Document, task: Loc, entry: Loc) -> Form:
    """Return the form of a key column; raises _UnfitError if its `normalize` does not fit the task's `key_form`."""
    normalize = document.text(*entry, "normalize")
    key_form = document.text(*_place_of_form(document, task, int(entry[-1])))
    agreed = None if key_form is None else parse_form(key_form)
    if normalize == HASHED:
        if agreed is None:
            right = "name the form under the hashes in the task, for example `key_form: [email/sha256]`"
            raise _UnfitError(f"{HASHED} does not say what the hashes are made of", right)
        if not agreed.sha256:
            right = f"write {agreed.base}{SHA256} in key_form, or give {agreed.base}"
            raise _UnfitError(f"{HASHED} needs a key_form that ends in {SHA256}, and it is {agreed}", right)
        return replace(agreed, option="", hashed=True)
    own = None if normalize is None else parse_form(normalize)
    if own is None or agreed is None:
        return own or agreed or Form()
    if own.base != agreed.base or own.sha256 > agreed.sha256:
        right = f"give {agreed.base}" + (f", or {HASHED} if the column holds hashes" if agreed.sha256 else "")
        raise _UnfitError(f"{own} does not fit key_form, which is {agreed}", right)
    return replace(agreed, option=own.option)


def _place_of_form(document: Document, task: Loc, index: int) -> Loc:
    """Return the place of the `key_form` of a key column; a task with one key column may hold a text."""
    loc = (*task, "key_form")
    return (*loc, index) if isinstance(document.get(*loc), list) else loc


def key_columns(document: Document, task: Loc, party: str) -> list[tuple[str, Form]]:
    """Return the key columns of a party, each with its form, given a file without errors."""
    entries = document.entries(*task, "keys", party)
    names = [document.text(*entry) or document.text(*entry, "column") or "" for entry in entries]
    return [(name, _form(document, task, entry)) for name, entry in zip(names, entries, strict=True)]


def _check_result(document: Document, loc: Loc, party: str | None) -> None:
    """Check that a task has a receiver, and that the party has an output if it learns the result."""
    task = document.table(*loc)
    receiver, broadcast = terms(document, loc)
    if receiver is None and task and not document.broken(("psi", "receiver")):
        right = f"add it here or under psi, for example `{example((*loc, 'receiver'))}`"
        document.blame((*loc, "receiver"), "is missing", right)
    learns = party is not None and (receiver == party or broadcast) and result_of(document, loc) == "rows"
    if party is not None and learns and party not in document.table(*loc, "output_path"):
        right = f"this party learns the result; add its output, for example `{_example_of_entry('output_path', party)}`"
        document.blame((*loc, "output_path", party), "is missing", right)


def terms(document: Document, loc: Loc) -> tuple[str | None, bool]:
    """Return the receiver of a task, if known, and whether the other party learns the result too."""
    receiver = document.text(*loc if "receiver" in document.table(*loc) else ("psi",), "receiver")
    broadcast = document.text(*loc, "broadcast_result") or document.text("psi", "broadcast_result") or "false"
    return receiver, broadcast.lower() == "true"


def result_of(document: Document, loc: Loc) -> Literal["rows", "count"]:
    """Return what the receiver of a task learns."""
    result = document.text(*loc, "result") or document.text("psi", "result")
    return "count" if result == "count" else "rows"


def protocol_of(document: Document, loc: Loc) -> Literal["ecdh", "rr22"]:
    """Return how the parties of a task compare their items."""
    protocol = document.text(*loc, "protocol") or document.text("psi", "protocol")
    return "rr22" if protocol == "rr22" else "ecdh"


@dataclass(frozen=True)
class Slot:
    """One task after lists of paths are expanded: an entry of `tasks`, and a position in its lists."""

    name: str
    task: Loc
    position: int | None

    def place(self, kind: str, party: str) -> Loc:
        loc = (*self.task, kind, party)
        return loc if self.position is None else (*loc, self.position)

    def places(self, document: Document, kind: str, party: str) -> list[Loc]:
        """Return the places of the task's paths: one, or those in a list that is one input."""
        loc = self.place(kind, party)
        return document.entries(*loc) or [loc]


def expand_lists(document: Document) -> list[Slot]:
    """Return every task of the file, with lists of paths expanded, and check these lists."""
    slots: list[Slot] = []
    if document.get("tasks") == []:
        document.blame(("tasks",), "is empty", f"give at least one, for example `{example(('tasks',))}`")
    for task in document.entries("tasks"):
        name = document.text(*task, "name") or ""
        count = None if is_group(document, task) else _check_lists(document, task)
        if count is None:
            slots.append(Slot(name, task, None))
        else:
            slots.extend(Slot(f"{name}-{n + 1}" if name else "", task, n) for n in range(count))
    return slots


def is_group(document: Document, task: Loc) -> bool:
    """Return whether the files of a task are tasks."""
    return (document.text(*task, "per_file") or "").lower() == "true"


def _check_lists(document: Document, task: Loc) -> int | None:
    """Return how many tasks the lists of a task make; None if it has no lists."""
    places = [(*task, kind, party) for kind in ("input_path", "output_path") for party in document.table(*task, kind)]
    paths = {loc: document.get(*loc) for loc in places if not document.broken(loc)}
    outputs = {loc: value for loc, value in paths.items() if loc[-2] == "output_path"}
    one_output = outputs and not any(isinstance(each, list) for each in outputs.values())
    if document.text(*task, "per_file") is not None or one_output:
        # Each list is one input.
        for loc, value in outputs.items():
            if isinstance(value, list):
                document.blame(loc, "is a list, and with per_file: false a task has one output", "give one path")
        return None
    first = next((loc for loc, value in paths.items() if isinstance(value, list)), None)
    if first is None:
        return None
    count = len(paths[first])
    for loc, value in paths.items():
        if not isinstance(value, list):
            document.blame(loc, "is one path", f"give a list of {counted(count, 'path')}, like {field_name(first)}")
        elif len(value) != count:
            what = f"the number of paths is {len(value)}, but {field_name(first)} has {count}"
            document.note(loc, what, "all lists of a task must be equally long")
    return count


def check_names(document: Document, slots: Sequence[Slot]) -> None:
    """Check that task names differ."""
    first: dict[str, Loc] = {}
    for slot in slots:
        loc = (*slot.task, "name")
        if len(slot.name) > MAX_NAME:
            document.blame(loc, f"{slot.name} is too long", f"a name has at most {MAX_NAME} characters")
        elif slot.name in first:
            what = f"{slot.name} is the name of another task (line {document.line(first[slot.name])})"
            document.blame(loc, what, "give every task its own name")
        if slot.name:
            first.setdefault(slot.name, loc)


# Policy --------------------------------------------------------------------------------------------------------


def check_policy(document: Document, slots: Sequence[Slot], party: str, parties: Sequence[str]) -> None:
    """Refuse limits that contradict each other, limits on a result that this party does not learn, and plain text."""
    numbers: dict[str, Callable[[str], int]] = {"peer_items": int, "duration": to_seconds}
    for name, number in numbers.items():
        least, most = (document.text("policy", f"{end}_{name}") for end in ("min", "max"))
        if least is not None and most is not None and number(least) > number(most):
            what = f"{least} is more than max_{name}, which is {most}"
            document.blame(("policy", f"min_{name}"), what, f"lower it, or raise max_{name}")
    _check_strict(document)
    for slot in slots if party in parties else ():
        receiver, broadcast = terms(document, slot.task)
        if receiver in (None, party) or broadcast:
            continue
        for name in ("max_match_rate", "min_output_rows"):
            if document.text("policy", name) is not None:
                what = f"cannot be checked, because {party} does not learn the result of task {slot.name}"
                document.blame(("policy", name), what, "remove the limit, or move the task to another job")


def _check_strict(document: Document) -> None:
    """Refuse plain text if the policy is strict."""
    tls = document.get("cluster", "tls")
    if (document.text("policy", "strict") or "").lower() == "true" and (tls is None or isinstance(tls, str)):
        loc = ("policy", "strict") if tls is None else ("cluster", "tls")
        what = "needs TLS, and there is no cluster.tls" if tls is None else "is not allowed by policy.strict"
        right = f"name the files of this party's certificate, for example `{example(('cluster', 'tls'))}`"
        document.blame(loc, what, right)
