"""How messages show text from outside."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from psicli.core.errors import InputMissingError, StorageError, printable, shown, shown_name, unexpected

# Letters of many scripts, an emoji, and two characters that Python's escapes use.
LETTERS = ["身份证", "prénom", "🔑", "имя", "اسم", "नाम", "ชื่อ", "이름", "ID (neu)", "a_b-c.d/e"]
ESCAPED = {
    "a\nb": r"'a\nb'",
    "a\tb": r"'a\tb'",
    "\x1b[31m": r"'\x1b[31m'",
    "\x9b": r"'\x9b'",
    "evil\u202egpj": r"'evil\u202egpj'",
    "\ufeffid": r"'\ufeffid'",
    "i\u200bd": r"'i\u200bd'",
    "no\u00a0break": r"'no\xa0break'",
    "line\u2028paragraph\u2029": r"'line\u2028paragraph\u2029'",
    "\ud83d": r"'\ud83d'",
    # Private use and unassigned characters have no shape of their own.
    "\ue000\U0010ffff": r"'\ue000\U0010ffff'",
    # The same letters as "é" and "Å", written with a second character.
    "e\u0301": r"'e\u0301'",
    "A\u030angstro\u0308m": r"'A\u030angstro\u0308m'",
    "back\\slash": r"'back\\slash'",
    "it's": '"it\'s"',
}


@pytest.mark.parametrize("text", LETTERS)
def test_letters_are_shown_as_they_are(text: str) -> None:
    assert shown(text) == f"'{text}'"
    assert printable(text) == text


@pytest.mark.parametrize("text", ESCAPED)
def test_what_cannot_be_seen_is_shown_as_an_escape(text: str) -> None:
    assert shown(text) == ESCAPED[text]
    assert printable(text).isprintable()


def test_long_text_is_clipped() -> None:
    assert shown("身" * 300) == f"'{'身' * 200}…'"


def test_no_letter_imitates_another_in_a_name_of_the_peer() -> None:
    assert shown_name("\u0430lice.example.com") == r"'\u0430lice.example.com'"


def test_a_path_cannot_add_a_line_to_a_message() -> None:
    error = StorageError(path=Path("in\n2026 ERROR all is lost\x1b[2J/é.csv"), reason="it is gone")
    assert error.message == r"in\n2026 ERROR all is lost\x1b[2J/é.csv: it is gone"
    missing = InputMissingError(place="in.csv", fault="no\u2028such\x07file", advice="Look in \x1b[2J.")
    assert (missing.message, missing.advice) == (r"in.csv: no\u2028such\x07file", r"Look in \x1b[2J.")


NO_MEMORY = [
    MemoryError(),
    pa.ArrowMemoryError("malloc of size 64 failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    ImportError("libarrow.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("exc", NO_MEMORY, ids=lambda exc: type(exc).__name__)
def test_a_system_without_memory_is_no_bug(exc: Exception, caplog: pytest.LogCaptureFixture) -> None:
    error = unexpected(exc, logging.getLogger("test"))
    assert (error.code, error.message) == (74, "the system gave this process no more memory or threads")
    assert caplog.records == []


@pytest.mark.parametrize("exc", [RuntimeError("dictionary changed size"), OSError(errno.EIO, "x"), ImportError("no")])
def test_any_other_exception_is_a_bug_with_a_traceback(exc: Exception, caplog: pytest.LogCaptureFixture) -> None:
    error = unexpected(exc, logging.getLogger("test"))
    assert (error.code, error.message) == (70, f"an unexpected {type(exc).__name__}")
    assert caplog.records[0].exc_info is not None
