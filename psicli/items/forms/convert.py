"""Applies the forms of a task to its key columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from psicli.items.forms.names import Form

# Raised when a form changes what it makes of any value; both parties must have the same.
FORMS_VERSION = 1


class Converter:
    """Converts the texts of the key columns of one input.

    threads: how many cores a slow form may use. Phone numbers use processes, which `close` ends.
    """

    def __init__(self, forms: Sequence[Form], threads: int = 1) -> None:
        self._forms = forms
        self._threads = threads

    def convert(self, column: int, texts: Any) -> Any:
        """Return the values of a key column in its form: a pa.LargeStringArray, as long as `texts` is.

        A value that the form cannot take becomes null. texts: a pa.LargeStringArray of canonical texts; nulls and
        empty texts stay what they are.
        """
        return texts

    def close(self) -> None:
        """End the processes; does nothing if there are none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
