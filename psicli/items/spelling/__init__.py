"""Finds keys of this party that look right to people and yet may match nothing, because their text is unusual.

psicli compares keys as text, so a space, a capital letter or a `.0` keeps keys apart that a person takes for equal. A
finding depends on this party's rows alone. It names a column, a kind and a number of rows: never a key.

    findings        the sentences about kinds of keys
    unfit           the sentences about values that a form cannot take
    remedies        what to do: forms, and what to change in an export
    column, case    count the keys of a column
    keys            looks at many keys at once
    patterns        the forms of keys that are worth a word
"""

from psicli.items.spelling.findings import Finding, Spellings
from psicli.items.spelling.unfit import unfit_findings

__all__ = ["Finding", "Spellings", "unfit_findings"]
