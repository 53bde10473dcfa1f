"""Check the paths of a job file: their form, and that no output replaces a file that the job needs.

The checks ask the file system what a path names, and open no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path

from psicli.config.checks import Slot, is_group, terms
from psicli.config.document import Document, Loc, field_name
from psicli.config.queries import database
from psicli.config.urls import URL, fault_of_url, is_folder, shown_url
from psicli.core.errors import UnknownFormatError, shown
from psicli.core.formats import SUFFIXES, file_format
from psicli.core.places import is_url, place
from psicli.storage.files import identity
from psicli.storage.places.listing import covers, is_pattern, names_many

# Advice for other files that people have, by their suffixes.
_OTHER_INPUTS = {
    **dict.fromkeys((".txt", ".dat", ".tab", ".psv", ".ssv"), "rename or link it to a name that ends in .csv or .tsv"),
    **dict.fromkeys((".xls", ".xlsx", ".xlsm", ".xlsb", ".ods"), "save the sheet as CSV"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it first"),
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".br", ".z"), "decompress it first, or use gzip or zstd instead"),
    **dict.fromkeys((".gpg", ".pgp", ".asc", ".age"), "decrypt it first"),
    **dict.fromkeys((".orc", ".avro", ".xml", ".db", ".sqlite"), "convert it to CSV or Parquet"),
    ".json": "convert it to CSV or Parquet, or rename it to .jsonl if every line is an object",
}
_WILD = re.compile(r"[*?\[]")


def check_paths(document: Document, slots: Sequence[Slot], party: str) -> None:
    """Check the form of every path; only this party's paths belong to this machine."""
    for name, text in document.table("cluster", "tls").items():
        if isinstance(text, str) and (fault := _fault_of_letters(text)):
            document.blame(("cluster", "tls", name), *fault)
    for slot in slots:
        for kind in ("input_path", "output_path"):
            # Patterns and folders of tasks whose files are tasks have checks of their own.
            for owner in document.table(*slot.task, kind) if not is_group(document, slot.task) else ():
                for loc in slot.places(document, kind, owner):
                    _check_path(document, loc, is_input=kind == "input_path", is_here=owner == party)


def _check_path(document: Document, loc: Loc, *, is_input: bool, is_here: bool) -> None:
    text = document.text(*loc)
    if is_input and text is not None and database(text) is not None:
        return
    # The other party's variables are not filled in here, so its suffix may be unknown.
    if text is None or (not is_here and "$" in text):
        return
    here = _fault_here(document, text, is_input=is_input) if text and is_here else None
    if fault := here or _fault_of_suffix(document, text, is_input=is_input, is_here=is_here):
        document.blame(loc, *fault)


def _fault_here(document: Document, text: str, *, is_input: bool) -> tuple[str, str] | None:
    """Return what is wrong with a path of this machine, and what would be right."""
    if URL.match(text):
        return fault_of_url(text, is_input=is_input)
    if fault := _fault_of_letters(text):
        return fault
    if not is_input and is_pattern(document.path.parent / text):
        return f"{shown(text)} is a pattern, and a task writes one file", "give one path"
    return None


def _fault_of_letters(text: str) -> tuple[str, str] | None:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        what = f"{shown(text)} has letters that no file name can have in this locale"
        return what, "set LC_ALL to a UTF-8 locale, such as C.UTF-8"
    return None


def _fault_of_suffix(document: Document, text: str, *, is_input: bool, is_here: bool) -> tuple[str, str] | None:
    if is_input and text and _names_many(document, text, is_here=is_here):
        return None
    try:
        file_format(place(text, Path()))
    except UnknownFormatError:
        right = f"use one of {SUFFIXES}, or - for standard {'input' if is_input else 'output'}"
        if is_input:
            right = _OTHER_INPUTS.get(os.path.splitext(text)[1].lower(), right)
        return f"{shown_url(text)} has no known suffix" if text else "is empty", right
    return None


def _names_many(document: Document, text: str, *, is_here: bool) -> bool:
    """Return whether an input is a folder or a pattern, or may be one on the machine of the other party."""
    if URL.match(text):
        return is_url(text) and is_folder(text)
    suffix = os.path.splitext(text)[1]
    if not is_here:
        return text.endswith("/") or bool(_WILD.search(text)) or (text != "-" and not suffix)
    path = document.path.parent / text
    if is_pattern(path):
        # What ends in .txt will still do so when the pattern is a name.
        return not suffix or bool(_WILD.search(suffix))
    return text.endswith("/") or os.path.isdir(path)


def check_clashes(
    document: Document, slots: Sequence[Slot], owners: Sequence[str], neighbours: Collection[str] = ()
) -> None:
    """Refuse an output that replaces a file of the job or another output, and `-` for two tasks.

    owners: the parties whose files this process knows. neighbours: other parties that seem to be on this machine;
    their variables are not filled in, and an input of theirs that exists must stay. A file may have many names: links,
    other spellings, other cases on some file systems.
    """
    used: dict[Hashable, Loc] = {identity(document.path): ()}
    for name, text in document.table("cluster", "tls").items():
        used.setdefault(identity(document.path.parent / str(text)), ("cluster", "tls", name))
    for file, loc in _files(document, slots, "input_path", owners):
        if file in used and document.text(*loc) == "-":
            what = f"- is the input of another task (line {document.line(used[file])})"
            document.blame(loc, what, "only one task can read standard input")
        used.setdefault(file, loc)
    for file, loc in _files(document, slots, "input_path", neighbours):
        if os.path.exists(document.path.parent / str(document.text(*loc))):
            used.setdefault(file, loc)
    outputs: dict[Hashable, Loc] = {}
    for file, loc in _files(document, slots, "output_path", owners):
        if (other := outputs.get(file, used.get(file))) is not None:
            name = f"{field_name(other)} (line {document.line(other)})" if other else "the job file"
            what = f"is the same file as {name}"
            right = "give every task its own output; only one task can write to -"
            document.blame(loc, what, right if file in outputs else "an output must not replace a file of the job")
        outputs.setdefault(file, loc)
    _check_not_covered(document, slots, [*owners, *neighbours], list(outputs.values()))


def _check_not_covered(
    document: Document, slots: Sequence[Slot], owners: Collection[str], outputs: Sequence[Loc]
) -> None:
    """Refuse an output in a folder that is an input, or with a name that a pattern fits: it would be read, too."""
    for _, loc in _files(document, slots, "input_path", owners):
        text = str(document.text(*loc))
        if text == "-" or database(text) or not names_many(named := place(text, document.path.parent)):
            continue
        for output in outputs:
            written = str(document.text(*output))
            if written != "-" and covers(named, place(written, document.path.parent)):
                what = f"is a file of {field_name(loc)} (line {document.line(loc)})"
                document.blame(output, what, "write it to a folder of its own: the output must not become an input")


def _files(
    document: Document, slots: Sequence[Slot], kind: str, owners: Collection[str]
) -> Iterator[tuple[Hashable, Loc]]:
    """Yield what identifies each file that these parties read or write, and its place in the job file."""
    for owner in owners:
        for slot in slots:
            receiver, broadcast = terms(document, slot.task)
            if kind == "input_path" or broadcast or receiver in (None, owner):
                for loc in slot.places(document, kind, owner):
                    text = document.text(*loc)
                    if text is not None and (found := database(text)) is not None:
                        if found[0]:
                            yield identity(document.path.parent / found[0]), loc
                    elif text is not None:
                        yield (owner, kind) if text == "-" else identity(place(text, document.path.parent)), loc
