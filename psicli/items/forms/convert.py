"""Applies the forms of a task to its key columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pyarrow as pa

from psicli.items.forms.names import Form
from psicli.items.forms.rules import rule

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
        form = self._forms[column]
        if form.is_text:
            return texts
        values = texts.dictionary_encode()
        convert = rule(form)
        outputs = [text if text is None else convert(text) for text in values.dictionary.to_pylist()]
        return pa.array(outputs, pa.large_string()).take(values.indices)

    def close(self) -> None:
        """End the processes; does nothing if there are none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
