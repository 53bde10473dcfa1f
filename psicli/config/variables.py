"""Fill in `${NAME}` and `$$`, once and after YAML is parsed, in addresses, TLS files and this party's paths.

The other party's paths stay as they are: its variables need not exist here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from psicli.config.document import Document, Loc


def fill_variables(document: Document, party: str, variables: Mapping[str, str]) -> None:
    """Fill in the variables of one party; blame every place with an undefined variable."""
    for loc in list(_places(document, party)):
        pieces = re.findall(r"\$\$|\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$|[^$]+", document.text(*loc) or "")
        undefined = [piece for piece in dict.fromkeys(pieces) if piece[:2] == "${" and piece[2:-1] not in variables]
        if "$" in pieces:
            document.blame(loc, "contains a $ without a variable", "write ${NAME}, or $$ for a dollar sign")
        elif undefined:
            right = f"set it in the environment or with --set {undefined[0][2:-1]}=VALUE"
            document.blame(loc, f"{', '.join(undefined)} is not defined", right)
        elif pieces:
            filled = (variables[p[2:-1]] if p[:2] == "${" else "$" if p == "$$" else p for p in pieces)
            document.replace(loc, "".join(filled))


def _places(document: Document, party: str) -> Iterator[Loc]:
    for node in document.entries("cluster", "nodes"):
        yield *node, "address"
        yield *node, "listen_address"
    for name in document.table("cluster", "tls"):
        yield "cluster", "tls", name
    for task in document.entries("tasks"):
        for kind in ("input_path", "output_path"):
            yield *task, kind, party
            yield from document.entries(*task, kind, party)
