"""The types of single fields: each one checks a text and turns it into a value.

Every check considers a single value, and raises WrongError with two halves: what is wrong, and what would be
right. Values that are not text (defaults, examples) pass unchanged.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any

from psicli.config.model.kinds import After, Before, Bounds, SchemaIs, SchemaWith, WrongError
from psicli.core.errors import shown
from psicli.items.forms.names import BASES, HASHED, REGION, SHA256, parse_form
from psicli.storage.memory import LEAST_MEMORY, room_for_memory

# An item counts its columns in one byte. A name must fit in a log line, and a party's name also in a label of a DNS
# name, because its certificate holds it as one.
MAX_KEY_COLUMNS = 255
MAX_NAME = 63
# More than any file has, and few enough for pyarrow's search.
MAX_NULL_VALUES = MAX_NULL_VALUE = 100

NAME = rf"[a-z0-9-]{{1,{MAX_NAME}}}"
DNS_NAME = r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*"
# An IP address (group 1), or a host name of at most 253 characters.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]|[0-9.]+)|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
# pyarrow allows one ASCII character.
_DELIMITER = r"[\t !#-&(-/:-@\[-`{-~]"
_ENCODING = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}"
_ENCODINGS_TO_GIVE = "give the name of one, such as utf-8, cp1252, utf-16, gb18030 or shift_jis"
# The form of `psicli certs show`, and that of OpenSSL with colons.
_FINGERPRINT = r"[ :]*([0-9A-Fa-f][ :]*){64}"
# Codecs for single names and for source code.
_ESCAPES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
# A number of bytes, or a number with a unit such as MB or MiB.
_AMOUNT = r"([1-9][0-9]{0,14}) ?(?:([KMGT])(i?)B)?"
_UNITS = " KMGT"
# A number of seconds, or a number with a unit. More than a year is a slip of the pen.
DURATION = r"([1-9][0-9]{0,8}) ?([smhd]?)"
WAIT = r"(0|[1-9][0-9]{0,8}) ?([smhd]?)"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_SECONDS = 366 * 86_400
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
# Host and port are checked like those of an address. All else is printable ASCII without `#`.
_URL = r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]+))?(?:[/?][!\x22$-~]*)?"
# The files that limit the memory of a container or service (cgroup 2, cgroup 1).
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def _whole_number(value: object) -> object:
    """Refuse text that is not a whole number in plain digits."""
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]{0,11}", value):
        if re.fullmatch(r"[1-9][0-9]{12,}", value):
            raise WrongError(f"{shown(value)} is out of range", "give at most 12 digits")
        raise WrongError(f"{shown(value)} is not a whole number", "give plain digits, without unit or sign")
    return value


def _text_like(pattern: str, what: str, right: str) -> Before:
    """Return a check that refuses text unless it matches."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise WrongError(f"{shown(value)} {what}", right)
        return value

    return Before(check)


def _repeated(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once, in the order of their first places."""
    return [value for value, count in Counter(values).items() if count > 1]


def _columns(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    columns = [entry if isinstance(entry, str) else entry.column for entry in entries]
    if not 1 <= len(columns) <= MAX_KEY_COLUMNS:
        raise WrongError(f"the number of columns is {len(columns)}", f"name 1 to {MAX_KEY_COLUMNS} key columns")
    if repeated := {column for column in columns if columns.count(column) > 1}:
        raise WrongError(f"names {shown(min(repeated))} more than once", "name every key column once")
    return entries


def _column(name: str) -> str:
    if not name or "\0" in name:
        raise WrongError("is empty" if not name else "contains U+0000", "give the name of a column, such as in_both")
    return name


def _distinct_columns(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise WrongError("is empty", "list the columns to write, or remove this field to write all")
    if repeated := _repeated(names):
        raise WrongError(f"names {shown(repeated[0])} more than once", "name every column once")
    return names


def form_text(text: str) -> str:
    """Return the name of a key form. Raises WrongError, which names the form that is probably meant."""
    try:
        form = parse_form(text)
    except ValueError:
        raise WrongError(f"{shown(text)} is not a key form", _form_meant(text)) from None
    if form.base == "phone" and form.option:
        # Imported late, because the library is slow to import.
        from psicli.items.forms.rules.phones import region_exists

        if not region_exists(form.option):
            right = "give the two letters of a country as in ISO 3166, such as phone/DE or phone/GB"
            raise WrongError(f"{shown(form.option)} is not a region of phone numbers", right)
    return text


# What people may call a form or a region.
_OTHER_NAMES = {"date/ymd": "date", "sha256": f"text{SHA256}", "phone/uk": "phone/GB"}


def _form_meant(text: str) -> str:
    """Return what would be right instead of an unknown form."""
    names = ["/".join(filter(None, [base, each])) for base, options in BASES.items() for each in ("", *options)]
    text = text.strip().lower()[:MAX_NAME]
    found = re.match("phone/([a-z]{2})(?:/|$)", text)
    known = [name.replace(REGION, found[1].upper() if found else "DE") for name in names]
    folded = {name.lower(): name for name in [*known, *(name + SHA256 for name in known)]} | _OTHER_NAMES
    close = difflib.get_close_matches(text, folded, n=1)
    if close:
        return f"did you mean {folded[close[0]]}?"
    return f"the forms are {', '.join(names)}, each also with {SHA256}"


def _normalize(text: str) -> str:
    return text if text == HASHED else form_text(text)


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        near = f"{1 << value.bit_length() - 1} or {1 << value.bit_length()}"
        raise WrongError(f"{value} is not a power of two", f"give {near}")
    return value


def _given_path(value: object) -> object:
    if value == "":
        raise WrongError("is empty", "give the path of a file")
    return value


def split_address(text: str) -> tuple[str, int]:
    """Return host (IPv6 without its brackets) and port of HOST:PORT. Raises WrongError."""
    host, _, port = text.rpartition(":")
    right = "give HOST:PORT, for example alice.example.com:9560 or [::1]:9560"
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535 or not host:
        raise WrongError(f"{shown(text)} is not a host followed by a port from 1 to 65535", right)
    found = _HOST.fullmatch(host)
    host = host.strip("[]")
    if not found or (found[1] and ip(host) is None):
        raise WrongError(f"{shown(text)} has no valid host name or IP address (IPv6 needs brackets)", right)
    return host, int(port)


def ip(host: str) -> IPv4Address | IPv6Address | None:
    """Return a host as an IP address; None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address or the name `localhost`."""
    address = ip(host)
    return address.is_loopback if address else host.lower() == "localhost"


def _dial_address(text: str) -> str:
    address = ip(split_address(text)[0])
    if address and address.is_unspecified:
        raise WrongError(f"{shown(text)} cannot be dialled", "give the name or IP address that the other party dials")
    return text


def ray_address(text: str) -> str:
    """Return where a Ray cluster is: HOST:PORT of its head, or `auto`. Raises WrongError."""
    right = "give HOST:PORT of the head of the Ray cluster, such as 10.0.0.1:6379, or auto"
    if text.lower().startswith("ray://"):
        raise WrongError(f"{shown(text)} is an address of Ray Client, which psicli does not use", right)
    try:
        if text != "auto":
            split_address(text)
    except WrongError:
        raise WrongError(f"{shown(text)} is not the address of a Ray cluster", right) from None
    return text


def _listen_address(text: str) -> str:
    if ip(split_address(text)[0]) is None:
        right = "give for example 0.0.0.0:9560 or [::1]:9560"
        raise WrongError(f"{shown(text)} is not an IP address with a port", right)
    return text


def _delimiter(value: object) -> object:
    """Return the delimiter that a text stands for: itself, or a tab for `tab` and `\\t`. Raises WrongError."""
    if not isinstance(value, str):
        return value
    delimiter = "\t" if value in ("tab", "\\t") else value
    if not re.fullmatch(_DELIMITER, delimiter):
        right = 'give one character such as ";" or "|", or the word tab; letters, digits and quotes cannot separate'
        raise WrongError(f"{shown(value)} is not a delimiter", right)
    return delimiter


def _encoding(value: object) -> object:
    """Return the canonical name of an encoding. Raises WrongError."""
    if not isinstance(value, str):
        return value
    try:
        if not re.fullmatch(_ENCODING, value):
            raise LookupError
        codecs.getincrementaldecoder(value)
        name = codecs.lookup(value).name
        # Python also has codecs that turn bytes into bytes; decode refuses these, but not without a byte.
        if name not in _ESCAPES:
            b"x".decode(value, "ignore")
    except LookupError:
        raise WrongError(f"{shown(value)} is not an encoding that psicli knows", _ENCODINGS_TO_GIVE) from None
    if name in _ESCAPES:
        raise WrongError(f"{shown(value)} is not the encoding of a table", _ENCODINGS_TO_GIVE)
    return "utf-8" if name == "utf-8-sig" else name


def _null_values(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MAX_NULL_VALUES:
        raise WrongError(f"the number of values is {len(values)}", f"give at most {MAX_NULL_VALUES}")
    if any(len(value) > MAX_NULL_VALUE for value in values):
        raise WrongError("a value is too long", f"give at most {MAX_NULL_VALUE} characters for each")
    return values


def to_bytes(text: str) -> int:
    """Return the number of bytes of a text such as 512MB, 2GiB or 2000000000. Raises WrongError."""
    found = re.fullmatch(_AMOUNT, text, re.IGNORECASE | re.ASCII)
    if not found:
        raise WrongError(f"{shown(text)} is not an amount of memory", "give for example 512MB, 2GB or 400MiB")
    size: int = int(found[1]) * (1024 if found[3] else 1000) ** _UNITS.index((found[2] or " ").upper())
    if size < LEAST_MEMORY:
        raise WrongError(f"{shown(text)} is too little", f"give at least {LEAST_MEMORY // 1_000_000}MB")
    return size


def to_seconds(text: str, form: str = DURATION) -> int:
    """Return the number of seconds of a duration such as 30s, 10m, 2h, 1d or 45. Raises WrongError."""
    found = re.fullmatch(form, text)
    if not found:
        raise WrongError(f"{shown(text)} is not a duration", "give for example 30s, 10m, 2h or 1d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > _MOST_SECONDS:
        raise WrongError(f"{shown(text)} is more than a year", f"give at most {_MOST_SECONDS // _SECONDS['d']}d")
    return seconds


def _variables(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not re.fullmatch(VARIABLE, name):
            raise WrongError(f"{shown(name)} is not the name of a variable", "use letters, digits and _, such as DATE")
    return values


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0]:
        right = "give a program and its arguments, such as [/usr/local/bin/mount-export, --read-only]"
        raise WrongError("is empty", right)
    return words


def _url(text: str) -> str:
    found = re.fullmatch(_URL, text)
    with suppress(WrongError):
        if found and split_address(f"{found[1]}:{found[2] or 443}"):
            return text
    # The address of a ping is a secret, so the message does not repeat it.
    raise WrongError("is not the address of a web page", "give an address such as https://hc.example.com/UUID")


def default_memory() -> int:
    """Return a quarter of the machine's or container's memory, and at least LEAST_MEMORY [bytes].

    A limit on the address space lowers it.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in MEMORY_LIMITS:
        # Without a limit, the file holds the word max or does not exist.
        with suppress(OSError, ValueError):
            sizes.append(int(path.read_text()))
    room = room_for_memory()
    return max(min(min(sizes) // 4, sys.maxsize if room is None else room), LEAST_MEMORY)


def _fingerprint(value: object) -> object:
    """Return a fingerprint in lower case and without spaces and colons. Raises WrongError."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(_FINGERPRINT, value):
        right = "give the line sha256 of `psicli certs show`, which has 64 digits of 0-9 and a-f"
        raise WrongError(f"{shown(value, 80)} is not the SHA-256 of a certificate", right)
    return re.sub("[ :]", "", value).lower()


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise WrongError("is empty", "list the fingerprint of a certificate, or remove this field")
    if repeated := _repeated(values):
        raise WrongError(f"lists {repeated[0][:8]}… more than once", "list every certificate once")
    return values


Name = Annotated[
    str,
    _text_like(NAME, "is not a name", f"use 1 to {MAX_NAME} of a-z, 0-9 and -, without variables"),
    SchemaWith({"pattern": f"^{NAME}$"}),
]
DnsName = Annotated[
    str,
    _text_like(DNS_NAME, "is not a DNS name", "give for example psi.alice.example.com, without wildcards"),
    SchemaWith({"pattern": f"^{DNS_NAME}$"}),
]
# The name of something in the same file: whoever looks it up says what is wrong with it.
NameElsewhere = Annotated[str, SchemaWith({"pattern": f"^{NAME}$"})]
# A column of an input or an output.
ColumnName = Annotated[str, After(_column), SchemaWith({"pattern": r"^[^\u0000]+$"})]
# For a list of columns.
DISTINCT = After(_distinct_columns)
# For a list of key columns.
DISTINCT_COLUMNS = After(_columns)
LIST_OF_COLUMNS = SchemaWith({"minItems": 1, "maxItems": MAX_KEY_COLUMNS, "uniqueItems": True})
_OPTIONS = {
    base: "|".join(["[A-Z]{2}" if each == REGION else each for each in options]) for base, options in BASES.items()
}
_FORM = f"({'|'.join(base + (f'(/({_OPTIONS[base]}))?' if _OPTIONS[base] else '') for base in BASES)})({SHA256})?"
Normalize = Annotated[str, After(_normalize), SchemaWith({"pattern": f"^({HASHED}|{_FORM})$"})]
_KeyForm = Annotated[str, After(form_text), SchemaWith({"pattern": f"^{_FORM}$"})]
KeyForms = _KeyForm | Annotated[tuple[_KeyForm, ...], SchemaWith({"minItems": 1, "maxItems": MAX_KEY_COLUMNS})]
PLAIN_DIGITS = Before(_whole_number)
Int = Annotated[int, PLAIN_DIGITS]
POWER_OF_TWO = After(_power_of_two)
_RATE = r"1(?:\.0{1,12})?|0\.(?!0+$)[0-9]{1,12}"
Rate = Annotated[
    float,
    # The bounds precede the check of the text; otherwise the JSON Schema would lack them.
    Bounds(gt=0, le=1),
    _text_like(_RATE, "is not a rate", "give a decimal fraction above 0 and at most 1, such as 0.25"),
]
Drift = Annotated[
    float,
    Bounds(ge=1, le=1000),
    _text_like(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", "is no such number", "give a number from 1 to 1000, such as 2 or 1.5"),
]
Bool = Annotated[bool, _text_like("(?ai)true|false", "is neither true nor false", "give true or false")]
Memory = Annotated[
    int,
    Before(lambda value: to_bytes(value) if isinstance(value, str) else value),
    # The schema describes the text in the job file, not the number in the Job.
    SchemaIs({"anyOf": [{"pattern": f"^{_AMOUNT}$", "type": "string"}, {"minimum": LEAST_MEMORY, "type": "integer"}]}),
]


def _as_seconds(form: str) -> Before:
    return Before(lambda value: to_seconds(value, form) if isinstance(value, str) else value)


def _schema_of_seconds(form: str, least: int) -> SchemaIs:
    number = {"maximum": _MOST_SECONDS, "minimum": least, "type": "integer"}
    return SchemaIs({"anyOf": [{"pattern": f"^{form}$", "type": "string"}, number]})


Duration = Annotated[int, _as_seconds(DURATION), _schema_of_seconds(DURATION, 1)]
# A duration that may be 0.
Wait = Annotated[int, _as_seconds(WAIT), _schema_of_seconds(WAIT, 0)]
# A text that YAML may take for a number: 2026, or true.
_Scalar = Annotated[str, SchemaIs({"type": ["string", "number", "boolean"]})]
Variables = Annotated[
    dict[str, _Scalar],
    After(_variables),
    SchemaWith({"propertyNames": {"pattern": f"^{VARIABLE}$"}}),
]
# A program and its arguments.
Command = Annotated[tuple[_Scalar, ...], After(_command), SchemaWith({"minItems": 1})]
Url = Annotated[str, After(_url), SchemaWith({"pattern": f"^{_URL}$"})]
Delimiter = Annotated[
    str,
    Before(_delimiter),
    SchemaWith({"pattern": rf"^(tab|\\t|{_DELIMITER})$"}),
]
Encoding = Annotated[str, Before(_encoding), SchemaWith({"pattern": f"^{_ENCODING}$"})]
NullValues = Annotated[
    tuple[str, ...],
    After(_null_values),
    SchemaWith({"maxItems": MAX_NULL_VALUES}),
]
DialAddress = Annotated[str, After(_dial_address)]
ListenAddress = Annotated[str, After(_listen_address)]
RayAddress = Annotated[str, After(ray_address)]
GivenPath = Annotated[Path, Before(_given_path)]
Paths = str | Annotated[tuple[str, ...], Bounds(min_length=1)]
_Fingerprint = Annotated[str, Before(_fingerprint), SchemaWith({"pattern": f"^{_FINGERPRINT}$"})]
Fingerprints = (
    _Fingerprint
    | Annotated[tuple[_Fingerprint, ...], After(_distinct), SchemaWith({"minItems": 1, "uniqueItems": True})]
)
