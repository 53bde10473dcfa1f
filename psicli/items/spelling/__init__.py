"""Finds keys of this party that look right to people and yet may match nothing, because their text is unusual.

psicli compares keys as text, so a space, a capital letter or a `.0` keeps keys apart that a person takes for equal. A
finding depends on this party's rows alone. It names a column, a kind and a number of rows: never a key.

    findings        the sentences
    column, case    count the keys of a column
    keys            looks at many keys at once
    patterns        the forms of keys that are worth a word
"""

from psicli.items.spelling.findings import Finding, Spellings

__all__ = ["Finding", "Spellings"]
