"""Fill in `${NAME}`, `$$` and `~`, after YAML is parsed, in addresses, TLS files, and this party's paths and queries.

The other party's paths stay as they are: its variables need not exist here.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from psicli.config.document import Document, Loc
from psicli.core.errors import shown

# How many lines the message about an undefined variable names.
_LINES_SHOWN = 5


def fill_variables(document: Document, party: str, variables: Mapping[str, str]) -> None:
    """Fill in the variables of one party, and its home folders; blame what cannot be filled in."""
    fill(document, list(_places(document, party)), variables)


def fill(document: Document, places: Sequence[Loc], variables: Mapping[str, str]) -> None:
    """Fill in the variables and home folders at these places; blame what cannot be filled in."""
    undefined: defaultdict[str, list[Loc]] = defaultdict(list)
    for loc in places:
        pieces = re.findall(r"\$\$|\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$|[^$]+", document.text(*loc) or "")
        missing = [piece for piece in dict.fromkeys(pieces) if piece[:2] == "${" and piece[2:-1] not in variables]
        for piece in missing:
            undefined[piece[2:-1]].append(loc)
        if "$" in pieces:
            right = "write ${NAME} with a plain name, or $$ for a dollar sign"
            document.blame(loc, "contains a $ without a variable", right)
        elif pieces and not missing:
            filled = (variables[p[2:-1]] if p[:2] == "${" else "$" if p == "$$" else p for p in pieces)
            document.replace(loc, "".join(filled))
    _blame_undefined(document, undefined)
    for loc in places:
        _fill_in_home(document, loc)


def _blame_undefined(document: Document, undefined: Mapping[str, list[Loc]]) -> None:
    """Note each variable once, however many places use it."""
    for name, locs in undefined.items():
        lines = sorted({document.line(loc) for loc in locs})
        more = f" and {len(lines) - _LINES_SHOWN} more" if len(lines) > _LINES_SHOWN else ""
        where = f" (lines {', '.join(map(str, lines[:_LINES_SHOWN]))}{more})" if len(lines) > 1 else ""
        right = f"set it in the environment or with --set {name}=VALUE"
        right += f", or under set in {document.batch}" if document.batch else ""
        document.note(locs[0], f"${{{name}}} is not defined{where}", right)
    for locs in undefined.values():
        for loc in locs:
            document.mark_broken(loc)


def _fill_in_home(document: Document, loc: Loc) -> None:
    """Replace `~/` and `~USER/` with a home folder, as a shell does."""
    text = document.text(*loc) or ""
    if not re.match(r"~[^/]*/", text):
        return
    path = os.path.expanduser(text)
    if path == text:
        user = text[1 : text.index("/")]
        what = f"there is no user {shown(user)}" if user else "~ is the home folder, and this user has none"
        document.blame(loc, what, "write the path in full")
    else:
        document.replace(loc, path)


def _places(document: Document, party: str) -> Iterator[Loc]:
    for node in document.entries("cluster", "nodes"):
        yield *node, "address"
        yield *node, "listen_address"
    for name in document.table("cluster", "tls"):
        yield "cluster", "tls", name
    yield "pipeline", "workers", "ray"
    for task in document.entries("tasks"):
        yield *task, "query", party
        for kind in ("input_path", "output_path"):
            yield *task, kind, party
            yield from document.entries(*task, kind, party)
