"""Recognises what a file is by its first bytes, so that a file with the wrong suffix or encoding gets fitting advice.

Only sure signs count: psicli must never refuse a file that it could read. Most magic numbers hold a control character,
which text does not start with; the others need one nearby.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from psicli.core.formats import Compression, FileFormat, Format, is_suffix

# How much of a file psicli looks at [bytes]. A workbook has the names of its parts here and there.
HEAD_BYTES = 1 << 16
# How much of it must be text [bytes].
_TEXT_BYTES = 4096
# Of this many bytes of text, fewer than one is a control character; of random bytes, two are.
_NOISE = 20
# So many characters beyond ASCII show that text is UTF-8 if all of them are valid.
_MANY_CHARACTERS = 16

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
# Bytes beyond ASCII, and those of them that are letters, dashes or quotes in cp1252.
_WESTERN = re.compile(rb"[\x80\x85\x91-\x97\xc0-\xff]+")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")


class Mismatch(NamedTuple):
    """A file that is not what its name says: what it is, and what to do."""

    fault: str
    advice: str


class _Found(NamedTuple):
    """What a file was recognised as, and what to do with it unless it may be named after its suffix."""

    what: str
    advice: str
    suffix: str = ""


_CONVERT = "Convert it to CSV or Parquet."
_EXPORT = "Export the table as CSV or Parquet."
_EXTRACT = "Extract the file from the archive."
_SAVE = "Save the sheet with the key column as CSV UTF-8."
_UNPACK = "Decompress it, or compress it with gzip or zstd instead."
_GZIP = _Found("gzip data", "Decompress it with `gunzip`.", ".gz")
_ZSTD = _Found("zstd data", "Decompress it with `zstd -d`.", ".zst")
_UNKNOWN = _Found("", "Check that it is the right file, and that its suffix matches its format.")
_NO_TEXT = _Found("binary data", "Check that it is the right file, and that it is not encrypted.")
_PARQUET = _Found("a Parquet file", "Convert it to CSV.", ".parquet")

# The start of a file, and what it means.
_MAGIC = (
    (b"\x1f\x8b", _GZIP),
    (b"\x28\xb5\x2f\xfd", _ZSTD),
    (b"BZh", _Found("bzip2 data", _UNPACK)),
    (b"\xfd7zXZ\0", _Found("xz data", _UNPACK)),
    (b"\x04\x22\x4d\x18", _Found("lz4 data", _UNPACK)),
    (b"\xff\x06\0\0sNaPpY", _Found("snappy data", _UNPACK)),
    (b"\x1f\x9d", _Found("compressed data", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", _Found("a 7z archive", _EXTRACT)),
    (b"Rar!\x1a\x07", _Found("a RAR archive", _EXTRACT)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _Found("an old Excel workbook", _SAVE)),
    (b"PAR1", _PARQUET),
    (b"PARE", _Found("an encrypted Parquet file", "Write it without encryption.")),
    (b"ARROW1\0\0", _Found("an Arrow file", _CONVERT, ".arrow")),
    (b"\xff\xff\xff\xff", _Found("an Arrow stream", _CONVERT, ".arrows")),
    (b"FEA1", _Found("an old Feather file", _CONVERT)),
    (b"ORC", _Found("an ORC file", _CONVERT)),
    (b"Obj\x01", _Found("an Avro file", _CONVERT)),
    (b"SQLite format 3\0", _Found("an SQLite database", _EXPORT)),
    (b"%PDF-", _Found("a PDF document", _EXPORT)),
)
# The formats that are not text: how their files start, and what they are called.
_ARROW = (b"ARROW1", b"\xff\xff\xff\xff"), "Arrow"
_STARTS = {Format.PARQUET: ((b"PAR1",), "Parquet"), Format.ARROW: _ARROW, Format.ARROW_STREAM: _ARROW}
# Text could start with these, too.
_WORDS = (b"BZh", b"PAR1", b"PARE", b"FEA1", b"ORC")

# Objects, and an array.
_JSON = (_Found("JSON", _CONVERT, ".jsonl"), _Found("JSON", _CONVERT))
_MARKUP = (
    (
        re.compile(rb"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE),
        _Found("an HTML page", "Look at it: it may be the error or sign-in page of a download."),
    ),
    (re.compile(rb"\s*<\?xml\b"), _Found("XML", "Look at it: it may be an error that a server sent.")),
    (re.compile(rb"-----BEGIN PGP "), _Found("PGP data", "Decrypt it.")),
    (re.compile(rb"version https://git-lfs"), _Found("a Git LFS pointer", "Get the file itself with `git lfs pull`.")),
    # `{` or `[` alone may start a column name.
    (re.compile(rb'\s*\{\s*("[^"\r\n]*"\s*:|\}\s*$)'), _JSON[0]),
    (re.compile(rb'\s*\[\s*(\{\s*"|\[|"|\]\s*$)'), _JSON[1]),
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def mismatch(head: bytes, fmt: FileFormat, *, unpacked: bool = False) -> Mismatch | None:
    """Return how the first bytes of a file contradict its format; None if they do not, or if that is not sure.

    unpacked: whether `head` is the start of the decompressed data of a compressed file.
    """
    if not head:
        return None
    found = _binary(head)
    text: _Found | None = None
    plain = found is None and not _CONTROL.search(head, 0, _TEXT_BYTES)
    if fmt.compression is not Compression.NONE and not unpacked:
        own = _GZIP if fmt.compression is Compression.GZIP else _ZSTD
        expected = f"{fmt.compression} data"
        # A zstd file may start with a frame without data.
        skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
        if found is own or (skippable and own is _ZSTD):
            return None
        text = _Found("plain text", f"Give it a name that ends in .{fmt.kind}.") if plain else _UNKNOWN
    elif fmt.kind in _STARTS:
        magic, expected = _STARTS[fmt.kind]
        if head.startswith(magic):
            return None
        if plain:
            text = _markup(head) or _Found("plain text", "Give it a name that ends in .csv or .tsv.")
    else:
        is_json = fmt.kind is Format.JSONL
        encoding = "utf-8" if is_json else fmt.dialect.encoding
        text = _other_encoding(head, encoding, settable=not is_json)
        expected = fmt.kind.upper() if text is None else encoding.upper()
        markup = _markup(head)
        text = text or (None if is_json and markup in _JSON else markup)
        text = text or (_NO_TEXT if _is_noise(head, encoding) else None)
    found = found or text
    return None if found is None else _explained(found, expected, fmt, unpacked=unpacked)


def _explained(found: _Found, expected: str, fmt: FileFormat, *, unpacked: bool) -> Mismatch:
    if found is _UNKNOWN:
        return Mismatch(f"the file is not {expected}", found.advice)
    suffix, advice = found.suffix, found.advice
    if found in (_GZIP, _ZSTD):
        suffix = f".{fmt.kind}{suffix}"
    if is_suffix(suffix):
        name = f"a name that ends in {suffix}"
        other = f"Give it {name}, or {advice[0].lower()}{advice[1:]}"
        advice = f"Decompress it once, and give it {name}." if unpacked else other
    return Mismatch(f"the {'decompressed data' if unpacked else 'file'} is {found.what}, not {expected}", advice)


def _binary(head: bytes) -> _Found | None:
    """Recognise a format that is not text."""
    if not head.strip(b"\0"):
        return _Found("all zero bytes", "Make or copy it again; a crash or a full disk may have left it so.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if b"opendocument.spreadsheet" in head:
            return _Found("a LibreOffice spreadsheet", _SAVE)
        if b"word/" in head or b"ppt/" in head:
            return _Found("an Office document", _EXPORT)
        if any(name in head for name in (b"[Content_Types].xml", b"docProps/", b"xl/")):
            return _Found("an Excel workbook", _SAVE)
        return _Found("a zip archive", _EXTRACT)
    for magic, found in _MAGIC:
        if head.startswith(magic) and (magic not in _WORDS or _CONTROL.search(head, 0, _TEXT_BYTES)):
            return found
    return _Found("a tar archive", _EXTRACT) if head[257:263] in (b"ustar\0", b"ustar ") else None


def _markup(head: bytes) -> _Found | None:
    """Recognise text that is not a table."""
    start = head.removeprefix(codecs.BOM_UTF8)
    return next((found for pattern, found in _MARKUP if pattern.match(start)), None)


def _other_encoding(head: bytes, encoding: str, *, settable: bool) -> _Found | None:
    """Recognise text that is UTF-16 or UTF-32 but should not be, and UTF-8 text that should be in another encoding.

    settable: whether the job file can set the encoding.
    """
    other, wide = _wide_encoding(head), encoding.startswith(("utf-16", "utf-32"))
    if encoding != "utf-8" and other is None and _is_utf8(head):
        # By chance, a few characters of another encoding can be valid UTF-8, but not many.
        many = sum(character > "\x7f" for character in head.decode("utf-8", "ignore")) >= _MANY_CHARACTERS
        if many or head.startswith(codecs.BOM_UTF8) or (wide and b"\0" not in head):
            return _Found("UTF-8 text", "Remove `csv.encoding` from the job file.")
    if wide:
        return None
    if other is None:
        return None
    name = other.upper().replace("-LE", "LE").replace("-BE", "BE")
    convert = f"onvert it with `iconv -f {name} -t UTF-8`."
    return _Found(f"{name} text", f"Set `csv.encoding: {other}`, or c{convert}" if settable else f"C{convert}")


def _wide_encoding(head: bytes) -> str | None:
    """Return the name of UTF-16 or UTF-32 if the text is in one of them, with or without a byte order mark."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    head = head[: min(len(head), _TEXT_BYTES) // 4 * 4]
    # Most text has ASCII delimiters and line ends at least. Count the zeros at each position of four.
    zeros = [head[at::4].count(0) for at in range(4)]
    characters = len(head) // 4
    if characters and zeros[2] == zeros[3] == characters and not zeros[0]:
        return "utf-32-le"
    if characters and zeros[0] == zeros[1] == characters and not zeros[3]:
        return "utf-32-be"
    big, little = zeros[0] + zeros[2], zeros[1] + zeros[3]
    # A few zeros may belong to values of UTF-8 text.
    if min(big, little) or max(big, little) < 2 or (max(big, little) < characters and _is_utf8(head)):
        return None
    return "utf-16-le" if little else "utf-16-be"


def _is_noise(head: bytes, encoding: str) -> bool:
    """Return whether bytes that should be UTF-8 are no text in any other encoding either."""
    controls = len(_CONTROL.findall(head, 0, _TEXT_BYTES))
    return encoding == "utf-8" and controls * _NOISE > min(len(head), _TEXT_BYTES) and not _is_utf8(head)


def _is_utf8(head: bytes) -> bool:
    """Return whether bytes are UTF-8 text that may be cut off at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def encoding_advice(data: bytes) -> str:
    """Return what to do about text that should be UTF-8 but is not, given the bytes around the first wrong one."""
    wrong = data.decode("utf-8", "replace").count("\ufffd")
    if sum(character > "\x7f" for character in data.decode("utf-8", "ignore")) > wrong:
        return "The text around it is UTF-8, so correct this line where the file is made."
    runs = _HIGH_BYTES.findall(data)
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        western = False
    else:
        # Letters with accents mostly stand alone, and Western text has few other characters beyond ASCII.
        alone, usual = sum(len(run) == 1 for run in runs), sum(map(len, _WESTERN.findall(data)))
        western = 2 * alone > len(runs) and 2 * usual > sum(map(len, runs))
    if western:
        return "If it is Western text from Windows, set `csv.encoding: cp1252`; otherwise set its own encoding there."
    return "Set csv.encoding to the encoding of the file, such as gb18030, shift_jis or cp1252, or save it as UTF-8."
