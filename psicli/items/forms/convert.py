"""Applies the forms of a task to its key columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from psicli.items import compute as pc
from psicli.items.forms.names import Form
from psicli.items.forms.quick import quick
from psicli.items.forms.quick.hashes import sha256_texts
from psicli.items.forms.rules.bases import base_rule

if TYPE_CHECKING:
    from psicli.items.forms.phone_pool import PhonePool

# Raised when a form changes what it makes of any value; both parties must have the same.
FORMS_VERSION = 1

# What makes the values of a form of distinct texts.
_Rules = Callable[[Sequence[str]], Sequence[str | None]]


class Converter:
    """Converts the texts of the key columns of one input.

    threads: how many cores a slow form may use. Phone numbers use processes, which `close` ends.
    """

    def __init__(self, forms: Sequence[Form], threads: int = 1) -> None:
        self._forms = forms
        regions = {form.option for form in forms if form.base == "phone" and not form.hashed}
        self._pools = _pools(regions, threads) if regions else {}

    def convert(self, column: int, texts: Any) -> Any:
        """Return the values of a key column in its form: a pa.LargeStringArray, as long as `texts` is.

        A value that the form cannot take becomes null. texts: a pa.LargeStringArray of canonical texts; nulls and
        empty texts stay what they are, and a text of nothing but what is trimmed becomes empty.
        """
        form = self._forms[column]
        if form.base != "text" or form.hashed:
            values = quick(form, texts)
            if values.null_count > texts.null_count:
                values = _completed(values, texts, self._rules(form))
        else:
            values = texts
        return sha256_texts(values) if form.sha256 and not form.hashed else values

    def _rules(self, form: Form) -> _Rules:
        if form.base == "phone" and not form.hashed:
            return self._pools[form.option].convert
        convert = base_rule(form)
        return lambda texts: list(map(convert, texts))

    def close(self) -> None:
        """End the processes; does nothing if there are none."""
        for pool in self._pools.values():
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pools(regions: Iterable[str], threads: int) -> dict[str, PhonePool]:
    # Imported late, because other forms need no processes.
    from psicli.items.forms.phone_pool import PhonePool

    return {region: PhonePool(region, threads) for region in regions}


def _completed(values: Any, texts: Any, rules: _Rules) -> Any:
    """Return values with those in place of nulls that the rules make of the texts."""
    open_ones = pc.and_(pc.is_null(values), pc.is_valid(texts))
    distinct = pc.dictionary_encode(pc.filter_(texts, open_ones))
    made = pa.array(rules(distinct.dictionary.to_pylist()), pa.large_string())
    return pc.replace_with_mask(values, open_ones, pc.take(made, distinct.indices))
