"""Tables of text, for a terminal and for a mail."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return the rows as lines with columns of one width each; the columns numbered in right stand on the right."""
    columns = [_column(texts, at in right) for at, texts in enumerate(zip(*rows, strict=True))]
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _column(texts: Sequence[str], right: bool) -> list[str]:
    """Fill the cells of a column up to one width."""
    width = max(map(len, texts))
    return [text.rjust(width) if right else text.ljust(width) for text in texts]
