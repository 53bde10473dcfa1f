"""The form that key columns need so that equal keys of both parties are the same text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from psicli.core.errors import shown
from psicli.core.records import dataclass
from psicli.items.forms.convert import Converter
from psicli.items.forms.names import HASHED, SHA256, Form, parse_form
from psicli.items.forms.rules.phones import region_of
from psicli.setup import looks, names
from psicli.setup.looks import Column

# The library for phone numbers takes its time: at most about so many of a column are compared.
_COMPARED_PHONES = 10_000
# How many endings of three digits there are.
_ENDINGS = 1000
# How many numbers show the country that a column comes from, and the share of them that must agree.
_PARSED_PHONES, _SHARE_OF_COUNTRY = 500, 0.5
_PLAIN_NUMBER = "^(0|[1-9][0-9]*)$"
_PADDED = "^0[0-9]+$"
_DAY_FIRST = r"^(1[3-9]|2[0-9]|3[01])[./-]|^[0-9]{1,2}\.[0-9]{1,2}\."
_MONTH_FIRST = "^[0-9]{1,2}[/-](1[3-9]|2[0-9]|3[01])[/-]"
_NUMERIC_DATE = "^[0-9]{1,2}[./-][0-9]{1,2}[./-]"
# A time that is not at midnight in UTC.
_TIME_OF_DAY = r"(?i)[0-9][t ]+([0-9:.,]*[1-9]|.*[+-][0-9:]*[1-9])"
# 00 is dialled for + in most countries.
_WITH_COUNTRY_CODE = r"^[^0-9+]*(\+|00)"
# What only some spellings of a number have at its end: .0, and an extension.
_POINT_ZERO = r"^(\+?[0-9]+)\.0$"
_EXTENSION = r"(?i)[ ,;/.(-]*(;ext=|e?xt(ensi[o\x{F3}]n|n)?|x|#|int|anexo)[ .:=]*[0-9]{1,8}[)#]?$"

_WHYS = {
    looks.EMAIL: "case, spaces around an address and a name before it do not count",
    looks.HASH: "case does not count",
}
_FORMS = {looks.EMAIL: "email", looks.HASH: "lower"}
# The forms of the plain values, if all that is known is the name of a column of hashes.
_OF_NAMES = {names.EMAIL: "email", names.PHONE: "phone"}


@dataclass(frozen=True)
class Choice:
    """The form of a pair of key columns.

    form: what both parties agree on. normalize: for each column, how its values are to be read where that differs; else
    empty. why: a line for people.
    """

    form: str
    normalize: tuple[str, ...]
    why: str = ""

    def forms(self) -> list[Form]:
        """Return the form of each column, as a run applies it."""
        agreed = parse_form(self.form)
        return [
            Form(agreed.base, sha256=True, hashed=True)
            if own == HASHED
            else Form(agreed.base, parse_form(own).option if own else agreed.option, agreed.sha256)
            for own in self.normalize
        ]


def choose(columns: Sequence[Column], region: str = "") -> Choice:
    """Return the form for the key column of one party, or for those of both; region: of phone numbers, if known."""
    plain = [column for column in columns if column.look != looks.SHA256]
    if not plain:
        return _of_hashes(columns)
    if len(plain) == len(columns):
        return _of_values(columns, region)
    hashes = next(column for column in columns if column.look == looks.SHA256)
    found = [_with_hashes(choice, columns) for choice in _candidates(plain, region)]
    best = max(found, key=lambda choice: equal(columns, choice)) if len(found) > 1 else found[0]
    return Choice(best.form, best.normalize, f"{shown(hashes.name)} holds SHA-256 hashes; {best.why}")


def given(form: str, columns: Sequence[Column], region: str = "") -> Choice:
    """Return the choice for a form that somebody has named; raises ValueError if there is no such form."""
    agreed = parse_form(form)
    if agreed.base == "phone" and not agreed.option:
        form = str(replace(agreed, option=region))
    normalize = []
    for column in columns:
        order = _order(column) if agreed.base == "date" else ""
        if agreed.sha256 and column.look == looks.SHA256:
            normalize.append(HASHED)
        else:
            normalize.append(f"date/{order}" if order not in ("", "?", agreed.option) else "")
    return Choice(form, tuple(normalize))


def without_region(columns: Sequence[Column], choice: Choice) -> int:
    """Return how many phone numbers in the key columns need a region that the form does not name."""
    form = parse_form(choice.form)
    return sum(map(_without_country_code, columns)) if form.base == "phone" and not form.option else 0


def equal(columns: Sequence[Column], choice: Choice) -> int:
    """Return how many distinct keys of the first of two columns the second one has too, as far as they were read.

    Of many phone numbers, this is an estimate from those with some endings, which all spellings of a number share.
    """
    forms = choice.forms()
    endings = compared_endings(columns, choice)
    own, peer = (_converted(column, form, endings) for column, form in zip(columns, forms, strict=True))
    return int(pc.sum(pc.is_in(own, value_set=peer)).as_py() or 0) * _ENDINGS // endings


def compared_endings(columns: Sequence[Column], choice: Choice) -> int:
    """Return how many of the 1,000 endings of numbers are compared: all of them, unless that takes long."""
    if parse_form(choice.form).base != "phone":
        return _ENDINGS
    most = max((column.distinct for column in columns), default=0)
    return max(min(_ENDINGS * _COMPARED_PHONES // max(most, 1), _ENDINGS), 1)


def _converted(column: Column, form: Form, endings: int) -> Any:
    if (form, endings) not in column.converted:
        texts = column.texts.unique()
        if endings < _ENDINGS and not form.hashed:
            texts = texts.filter(pc.less(_ending(texts), f"{endings:03d}"))
        with Converter([form]) as converter:
            column.converted[form, endings] = converter.convert(0, texts).drop_null().unique()
    return column.converted[form, endings]


def _ending(texts: Any) -> Any:
    """Return the last three digits of phone numbers, which are the same in all spellings."""
    numbers = pc.utf8_trim_whitespace(texts)
    for pattern, kept in ((_POINT_ZERO, r"\1"), (_EXTENSION, ""), ("[^0-9]", "")):
        numbers = pc.replace_substring_regex(numbers, pattern=pattern, replacement=kept)
    return pc.utf8_lpad(pc.utf8_slice_codeunits(numbers, start=-3), width=3, padding="0")


def _of_hashes(columns: Sequence[Column]) -> Choice:
    """Return the form of hashes; as text, the hash of an empty value would match another one."""
    bases = {_OF_NAMES[found] for column in columns if (found := names.concept(column.name)) in _OF_NAMES}
    normalize = (HASHED,) * len(columns)
    if len(bases) == 1:
        base = bases.pop()
        return Choice(base + SHA256, normalize, f"SHA-256 hashes; by the name of a column, those of {base} keys")
    return Choice(
        "text" + SHA256, normalize, "SHA-256 hashes: case does not count, and that of an empty value is no key"
    )


def _with_hashes(choice: Choice, columns: Sequence[Column]) -> Choice:
    """Return a choice for the plain columns as one for all of them."""
    own = iter(choice.normalize)
    normalize = tuple(HASHED if column.look == looks.SHA256 else next(own) for column in columns)
    return Choice(choice.form + SHA256, normalize, choice.why)


def _candidates(columns: Sequence[Column], region: str) -> list[Choice]:
    """Return the forms that the plain columns may have had before the others were hashed."""
    choice = _of_values(columns, region)
    others = ("trim", "lower", "text") if choice.form in ("text", "trim", "lower") else ()
    uuids = [_uuids(len(columns))] if all(map(_may_be_uuids, columns)) else []
    return [*(_text(form, len(columns)) for form in others), *uuids] or [choice]


def _of_values(columns: Sequence[Column], region: str) -> Choice:
    found = {column.look for column in columns}
    if found <= {looks.PHONE, looks.INTEGER, looks.TEXT} and looks.PHONE in found:
        return _phones(columns, region)
    if found <= {looks.DATE, looks.TIME} and (choice := _times(columns)):
        return choice
    if found == {looks.INTEGER}:
        return _integers(columns)
    if looks.UUID in found and all(map(_may_be_uuids, columns)):
        return _uuids(len(columns))
    if len(found) == 1 and (look := next(iter(found))) in _FORMS:
        return Choice(_FORMS[look], ("",) * len(columns), f"{look}: {_WHYS[look]}")
    return _texts(columns)


def _may_be_uuids(column: Column) -> bool:
    """Return whether a column holds UUIDs, or hashes that are UUIDs if those of the partner are."""
    return column.look == looks.UUID or (column.look == looks.HASH and column.mostly(looks.ANY_UUID))


def _uuids(count: int) -> Choice:
    return Choice("uuid", ("",) * count, "UUIDs: case, braces and hyphens do not count")


def _times(columns: Sequence[Column]) -> Choice | None:
    """Return the form of dates and times; None for times that no form takes."""
    found = {column.look for column in columns}
    is_midnight = not any(column.has(_TIME_OF_DAY) for column in columns)
    orders = tuple(map(_order, columns))
    if found == {looks.TIME} and not (is_midnight and (len(columns) == 1 or any(orders))):
        why = f"times: {'all are at midnight' if is_midnight else 'they are compared in UTC'}"
        return None if any(orders) else Choice("timestamp", orders, why)
    if found == {looks.DATE}:
        why = "dates: all are compared as text like 2024-03-01"
    elif is_midnight:
        why = "all times are at midnight, so the dates are compared"
    else:
        why = "only one side has times of day, so the days are compared, in UTC"
    unsure = [shown(column.name) for column, order in zip(columns, orders, strict=True) if order == "?"]
    if unsure:
        why += f"; is the day or the month first in {', '.join(unsure)}? Write date/DMY or date/MDY"
    return Choice("date", tuple(f"date/{order.replace('?', 'DMY')}" if order else "" for order in orders), why)


def _order(column: Column) -> str:
    """Return the order of day and month, `?` if it does not show, and nothing if the dates need none."""
    if column.has(_DAY_FIRST):
        return "DMY"
    if column.has(_MONTH_FIRST):
        return "MDY"
    return "?" if column.has(_NUMERIC_DATE) else ""


def _integers(columns: Sequence[Column]) -> Choice:
    nothing = ("",) * len(columns)
    widths = {width for column in columns for width in pc.unique(pc.utf8_length(column.trimmed)).to_pylist()}
    if all(column.share(_PLAIN_NUMBER) == 1 for column in columns):
        return Choice("text", nothing, "whole numbers, all written alike")
    if len(widths) == 1 and any(column.has(_PADDED) for column in columns):
        return Choice("trim", nothing, f"codes of {widths.pop()} digits, whose zeros count")
    return Choice("integer", nothing, "whole numbers: leading zeros, + and .0 do not count")


def _texts(columns: Sequence[Column]) -> Choice:
    has_spaces = any(not column.trimmed.equals(column.texts) for column in columns)
    usual = _text("trim" if has_spaces else "text", len(columns))
    if len(columns) == 1:
        return usual
    found = {form: equal(columns, _text(form, len(columns))) for form in ("text", "trim", "lower")}
    best = max(found.values())
    return _text(next(form for form, count in found.items() if count == best), len(columns)) if best else usual


def _text(form: str, count: int) -> Choice:
    whys = {
        "text": "values are compared as they are",
        "trim": "spaces around a value do not count",
        "lower": "case and spaces around a value do not count",
    }
    return Choice(form, ("",) * count, whys[form])


def _phones(columns: Sequence[Column], region: str) -> Choice:
    """Return the form of phone numbers. Those without a country code need a region."""
    nothing = ("",) * len(columns)
    without = sum(map(_without_country_code, columns))
    if region:
        return Choice(f"phone/{region}", nothing, f"phone numbers; those without a country code are in {region}")
    if not without:
        return Choice("phone", nothing, "phone numbers, all with a country code")
    texts = pa.concat_arrays([column.trimmed for column in columns])
    with_code = texts.filter(pc.match_substring_regex(texts, pattern=_WITH_COUNTRY_CODE))[:_PARSED_PHONES]
    international = pc.replace_substring_regex(with_code, pattern=_WITH_COUNTRY_CODE, replacement="+")
    region = _region(international.to_pylist())
    if region:
        why = f"phone numbers; most country codes are those of {region}, so the others are taken for {region}, too"
        return Choice(f"phone/{region}", nothing, why)
    why = f"phone numbers; {without:,} of {len(texts):,} have no country code and match nothing until --region names it"
    return Choice("phone", nothing, why)


def _without_country_code(column: Column) -> int:
    numbers = column.trimmed.filter(pc.match_substring_regex(column.trimmed, pattern=looks.PHONE_NUMBER))
    return len(numbers) - int(pc.match_substring_regex(numbers, pattern=_WITH_COUNTRY_CODE).true_count)


def _region(texts: Sequence[str]) -> str:
    """Return the region that most of these international numbers belong to; empty if there is none."""
    (region, count), *_ = Counter(map(region_of, texts)).most_common(1) or [("", 0)]
    return region if count >= _SHARE_OF_COUNTRY * len(texts) else ""
