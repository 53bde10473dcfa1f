"""Read the code blocks of a page.

    ```sh                      commands without a prompt
    ```sh title="alice"        the same in the folder alice, as on the machine of that party
    ```sh title="… terminal"   the same in the folder of the page, at the same time as the terminals next to it
    ```yaml title="job.yaml"   a file in the folder in which the commands are; csv and text likewise
    ```yaml                    a job file, or a fragment of one
    ```text                    after commands: the output expected, where a line … stands for any lines
    ```                        a picture; an indented block is one too

`<!-- test: COMMAND -->` is a command that readers do not see. `<!-- not run: REASON -->` goes before a block that the
tests only check as far as they can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]*)\")?$")
_COMMENT = re.compile(r"^ *<!-- (?P<kind>test|not run): (?P<text>.*) -->$")
_LIST_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) +")


@dataclass(frozen=True)
class Block:
    """A code block, or the command of a `test` comment, which has the language `test`."""

    language: str
    title: str
    text: str
    # The number of its first line.
    line: int
    # Whether only blank lines and comments are between it and the block before.
    follows: bool
    # Why it is not run; empty if it is.
    not_run: str = ""


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order. Raises AssertionError for a fence that is not closed or not understood."""
    return list(_blocks(page.read_text().splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    number, follows, not_run, listed = 0, False, "", 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := _COMMENT.match(line):
            if comment["kind"] == "test":
                yield Block("test", "", comment["text"], number, follows)
                follows = True
            else:
                not_run = comment["text"]
        elif fence := _FENCE.match(line):
            assert len(fence["indent"]) % 4 == 0, f"line {number}: in a list, indent a block by 4, as MkDocs needs it"
            first, number = number, _end_of_fence(lines, number)
            text = "".join(f"{each[len(fence['indent']) :]}\n" for each in lines[first : number - 1])
            yield Block(fence["language"], fence["title"] or "", text, first, follows, not_run)
            follows, not_run = True, ""
        elif line.strip():
            assert "```" not in line, f"line {number}: a fence that is not understood"
            listed = len(found[0]) if (found := _LIST_ITEM.match(line)) else listed if line.startswith(" ") else 0
            follows, not_run = False, ""
        elif (first := number) < len(lines) and _is_indented(lines[number], listed):
            while number < len(lines) and (not lines[number].strip() or _is_indented(lines[number], listed)):
                number += 1
            yield Block("", "", "".join(f"{each}\n" for each in lines[first:number]), first, False)


def _end_of_fence(lines: list[str], number: int) -> int:
    end = next((n for n in range(number, len(lines)) if lines[n].strip() == "```"), None)
    assert end is not None, f"line {number}: the fence is not closed"
    return end + 1


def _is_indented(line: str, listed: int) -> bool:
    """Return whether a line after a blank one begins an indented block; `listed` is how far its list is indented."""
    return line.startswith(" " * (listed + 4)) and not _LIST_ITEM.match(line)
