"""The forms of plain text, and what every form trims."""

from __future__ import annotations

import unicodedata

# What every form but `text` removes at both ends: control characters, white space, and characters that nobody sees.
# The joiners U+200C and U+200D stay, since Persian, Hindi and emoji need them. The list is fixed, so that it is the
# same with every version of Unicode.
TRIMMED_RANGES = (
    (0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x61C, 0x61C), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200B),
    (0x200E, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
TRIMMED = "".join(chr(point) for first, last in TRIMMED_RANGES for point in range(first, last + 1))


def trim(text: str) -> str:
    return text.strip(TRIMMED)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", trim(text))


def lower(text: str) -> str:
    """Return the text with case folded: texts that are canonically equal but for case become the same."""
    # Unicode folds decomposed text (definition D145), because one mark becomes a letter.
    folded = unicodedata.normalize("NFD", trim(text)).casefold()
    return unicodedata.normalize("NFC", folded)
