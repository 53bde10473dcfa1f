"""Read YAML into a plain tree, with the line of every value and the errors found so far. Only this module uses yaml.

YAML is composed, never constructed: every scalar stays text until a model converts it. This module refuses tags,
control characters, repeated fields and exploding aliases, and does not know what a field means.
A value that is blamed counts as broken: later checks see neither it nor anything below it, so that one error gives
one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from psicli.core.errors import InputMissingError, JobFileError, counted, printable, reason, shown

# A job of a thousand tasks is about 300 KB. The other limits stop small files that explode: nesting uses stack, and
# aliases of aliases double with every line.
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_PLACES = 500_000
MAX_ERRORS_SHOWN = 100

# Characters that would break a terminal, a log line or a path. str.isprintable would refuse too many, for example a
# no-break space in a column name.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# SQL may have several lines.
_UNSAFE_IN_QUERY = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}

Loc = tuple[str | int, ...]


class Document:
    """A job file as dicts, lists and text, with its errors; a subclass is another kind of file.

    Raises InputMissingError if there is no such file, and JobFileError if it cannot be read as YAML.
    """

    # What messages call the file, and the command that shows what it holds.
    noun: ClassVar[str] = "job file"
    schema: ClassVar[str] = "psicli config schema"
    error: ClassVar[type[JobFileError]] = JobFileError

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown_path = printable(path)
        # The batch file that can set what this file lacks, for messages.
        self.batch: str | None = None
        self._lines: dict[Loc, int] = {}
        self._broken: set[Loc] = set()
        self._filled: set[Loc] = set()
        self._errors: list[tuple[int, str]] = []
        self._places = 0
        self.root = self._load()

    # Places

    def line(self, loc: Loc) -> int:
        """Return the line of a place, or of the nearest enclosing place that is in the file."""
        return next(self._lines[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self._lines)

    def get(self, *loc: str | int) -> Any:
        """Return the value at a place; None if it is missing or broken."""
        found = None if self.broken(loc) else self.root
        for step in loc:
            if isinstance(step, str) and isinstance(found, dict):
                found = found.get(step)
            elif isinstance(step, int) and isinstance(found, list) and step < len(found):
                found = found[step]
            else:
                return None
        return found

    def text(self, *loc: str | int) -> str | None:
        found = self.get(*loc)
        return found if isinstance(found, str) else None

    def table(self, *loc: str | int) -> dict[str, Any]:
        found = self.get(*loc)
        return found if isinstance(found, dict) else {}

    def entries(self, *loc: str | int) -> list[Loc]:
        """Return the places of the entries of a list."""
        found = self.get(*loc)
        return [(*loc, index) for index in range(len(found))] if isinstance(found, list) else []

    def is_filled(self, loc: Loc) -> bool:
        """Return whether the text at a place differs from what is in the file."""
        return loc in self._filled

    def replace(self, loc: Loc, text: str) -> None:
        if text != self.text(*loc):
            self._filled.add(loc)
        self.get(*loc[:-1])[loc[-1]] = self._safe_text(loc, text)

    # Errors

    def broken(self, loc: Loc) -> bool:
        return any(loc[:end] in self._broken for end in range(len(loc) + 1))

    def is_sound(self, loc: Loc) -> bool:
        """Return whether neither a place nor anything around it or below it is broken."""
        return not any(each[: len(loc)] == loc or loc[: len(each)] == each for each in self._broken)

    def mark_broken(self, loc: Loc) -> None:
        self._broken.add(loc)

    def blame(self, loc: Loc, what: str, right: str) -> None:
        """Note an error and mark its place as broken."""
        self.note(loc, what, right)
        self.mark_broken(loc)

    def note(self, loc: Loc, what: str, right: str, line: int | None = None) -> None:
        """Note an error unless its place is broken; later checks still see the place."""
        if not self.broken(loc):
            self._errors.append((line or self.line(loc), f"{self._name(loc)}: {what}; {right}"))

    def raise_errors(self, more: Sequence[str] = ()) -> None:
        """Raise JobFileError with every error, sorted by line, if there are any; more: lines about other files."""
        if self._errors or more:
            raise self._error(more)

    def fail(self, what: str, right: str) -> NoReturn:
        """Raise JobFileError for the whole file, with what was found before."""
        self._fail(self.noun, what, right)

    def _name(self, loc: Loc) -> str:
        return field_name(loc) or self.noun

    def _fail(self, field: str, what: str, right: str, line: int = 1) -> NoReturn:
        """Note an error that makes further checks impossible, and raise JobFileError."""
        self._errors.append((line, f"{field}: {what}; {right}"))
        raise self._error()

    def _error(self, more: Sequence[str] = ()) -> JobFileError:
        path = self.shown_path
        lines = [self._located(line, text) for line, text in sorted(self._errors, key=lambda error: error[0])]
        lines += more
        if len(lines) > MAX_ERRORS_SHOWN:
            lines[MAX_ERRORS_SHOWN:] = [f"{path}: and {counted(len(lines) - MAX_ERRORS_SHOWN, 'more error')}"]
        return self.error(mistakes="\n".join(lines))

    def _located(self, line: int, text: str) -> str:
        """Return an error with its place."""
        return f"{self.shown_path}:{line}: {text}"

    # Reading

    def _load(self) -> Any:
        """Return the content of the file, and note the line of every place."""
        return self._convert(self._compose(self._read()), (), ())

    def _read(self) -> str:
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            missing = isinstance(exc, FileNotFoundError | NotADirectoryError)
            raise InputMissingError(
                place=self.shown_path,
                fault=f"no such {self.noun}" if missing else f"cannot read this {self.noun}: {reason(exc)}",
                advice=f"Check the path of the {self.noun}; a relative path starts at the current folder.",
            ) from exc
        if len(data) > MAX_FILE_BYTES:
            self._fail(self.noun, "is too large", f"a {self.noun} has at most {MAX_FILE_BYTES // 2**20} MiB")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            self._fail(self.noun, "is not UTF-8 text here", "save it as UTF-8", data.count(b"\n", 0, exc.start) + 1)

    def _compose(self, text: str) -> yaml.Node:
        try:
            node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as exc:
            # The end of a text says nothing about a quote or bracket that is not closed; its start does.
            unclosed = exc.context_mark if "end of stream" in str(exc.problem) else None
            mark = unclosed or exc.problem_mark or exc.context_mark
            problem = ", ".join(part for part in (exc.context, exc.problem) if part)
            line = mark.line if mark else 0
            right = _advice(problem, "".join(text.splitlines()[line : line + 1]))
            self._fail("YAML", _UNSAFE.sub(" ", problem)[:200], right, line + 1)
        except yaml.reader.ReaderError as exc:
            line = text.count("\n", 0, exc.position) + 1
            self._fail("YAML", f"character U+{ord(text[exc.position]):04X} is not allowed", "remove it", line)
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML raises a bare ValueError for an escape beyond Unicode ("\U00110000") and the like.
            self._fail("YAML", "cannot be read", "check numbers and escapes such as \\U in double quotes")
        if node is None:
            self._fail(self.noun, "is empty", f"run `{self.schema}` to see what a {self.noun} holds")
        return node

    def _convert(self, node: yaml.Node, loc: Loc, around: tuple[yaml.Node, ...]) -> Any:
        self._lines.setdefault(loc, node.start_mark.line + 1)
        around = self._enter(node, loc, around)
        if node.tag not in _PLAIN_TAGS:
            self.blame(loc, f"has the YAML tag {shown(str(node.tag))}", f"remove the tag; a {self.noun} has no tags")
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, loc, around)
        if isinstance(node, yaml.SequenceNode):
            return [self._convert(child, (*loc, index), around) for index, child in enumerate(node.value)]
        return self._safe_text(loc, _text_of(node))

    def _enter(self, node: yaml.Node, loc: Loc, around: tuple[yaml.Node, ...]) -> tuple[yaml.Node, ...]:
        """Count a node against the limits; return the nodes around its children."""
        line = node.start_mark.line + 1
        self._places += 1
        # An alias yields the anchor's node itself: an alias inside its own anchor never ends, and a few lines of
        # aliases can expand to billions of places.
        if any(node is outer for outer in around):
            self._fail(self._name(loc), "is an alias of a value that contains it", "write the value out", line)
        if self._places > MAX_PLACES or len(around) >= MAX_DEPTH:
            what = "makes the file too large or too deep once aliases are expanded"
            self._fail(self._name(loc), what, "split the job", line)
        return (*around, node)

    def _convert_mapping(self, node: yaml.MappingNode, loc: Loc, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, child, merged in self._fields(node, loc, around):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.note(loc, "has a field name that is not text", "write NAME: VALUE", line)
                continue
            text = _text_of(key)
            name = shown(text) if _UNSAFE.search(text) else text
            here = (*loc, name)
            if name in table:
                if not merged:
                    self.note(here, f"appears twice (first in line {self._lines[here]})", "keep one of the two", line)
                continue
            self._lines[here] = line
            table[name] = self._convert(child, here, around)
        return table

    def _fields(
        self, node: yaml.MappingNode, loc: Loc, around: tuple[yaml.Node, ...]
    ) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Yield the fields of a mapping, then those that `<<` merges into it, which its own fields replace."""
        sources: list[yaml.Node] = []
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None:
                sources += child.value if isinstance(child, yaml.SequenceNode) else [child]
            else:
                yield key, child, False
        for source in sources:
            inside = self._enter(source, loc, around)
            if isinstance(source, yaml.MappingNode):
                yield from ((key, child, True) for key, child, _ in self._fields(source, loc, inside))
            else:
                line = source.start_mark.line + 1
                self.note((*loc, "<<"), "merges a value that has no fields", "write <<: *NAME of a mapping", line)

    def _safe_text(self, loc: Loc, text: str) -> str:
        """Return text as it is; if it holds control characters, blame it and return a printable form.

        The name of a key column may hold any character but half a surrogate pair: a header may hold it, too.
        """
        unsafe = _SURROGATE if _is_key_column(loc) else _UNSAFE_IN_QUERY if _is_query(loc) else _UNSAFE
        # A tab alone is a delimiter.
        if text == "\t" or not unsafe.search(text):
            return text
        if _SURROGATE.search(text):
            self.blame(loc, f"{shown(text)} is not valid Unicode text", "write it in UTF-8")
        else:
            self.blame(loc, f"{shown(text)} contains a line break or control character", "remove it")
        return shown(text)


class _Loader(yaml.BaseLoader):
    """A composer that refuses deep nesting before Python's stack overflows, and does not resolve implicit types."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _text_of(node: yaml.Node) -> str:
    """Return the text of a scalar; JSON writes a character beyond U+FFFF as two escapes, which are one character."""
    text = str(node.value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if _SURROGATE.search(text) else text


def _is_key_column(loc: Loc) -> bool:
    return len(loc) >= 5 and (loc[0], loc[2]) == ("tasks", "keys") and loc[5:] in ((), ("column",))


def _is_query(loc: Loc) -> bool:
    return len(loc) == 4 and (loc[0], loc[2]) == ("tasks", "query")


def _advice(problem: str, line: str) -> str:
    """Return what would be right after an error of YAML; most come from a value that needs quotes."""
    if "cannot start any token" in problem and "\\t" in problem:
        return "indent with spaces; YAML takes no tabs there"
    # Braces and brackets end a plain value inside other braces or brackets.
    if found := re.search(r"[{\[][^'\"]*?(?P<value>[^\s,:'\"{\[]*\$\{\w*\}[^\s,'\"\]}]*)", line):
        return f'put a value with ${{…}} in quotes: "{printable(found["value"])}"'
    if re.search("alias|cannot start any token|mapping values are not allowed|but got ':'", problem):
        return 'put a value that begins with a special character, or holds ": ", in double quotes'
    return "check indentation, quotes, brackets and tabs near this line"


def field_name(loc: Loc) -> str:
    """Return a place in the form that messages show: `cluster.nodes[0].address`; empty for the whole file."""
    name = ""
    for step in loc:
        if isinstance(step, int):
            name += f"[{step}]"
        else:
            name += ("." if name else "") + (step if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step) else shown(step, 64))
    return name


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.splitlines()[0]
