"""The test engine for the code blocks of the documentation: it runs them as a reader would, and finds mistakes."""

from __future__ import annotations

import configparser
from pathlib import Path
from textwrap import dedent

import click
import pytest
from support.docs import static, story
from support.docs.blocks import Block, read_blocks
from support.docs.story import Story, environment, groups

from psicli.core.errors import JobFileError


def blocks(folder: Path, text: str) -> list[Block]:
    page = folder / "page.md"
    page.write_text(dedent(text))
    return read_blocks(page)


def run(folder: Path, text: str) -> Path:
    """Run a page; return its folder."""
    found = blocks(folder, text)
    for block in found:
        static.check(block)
    (folder / "page").mkdir()
    Story(folder / "page", 4711, environment(folder / "bin")).run(found)
    return folder / "page"


def test_folder_and_variables_last_until_the_end_of_the_page(tmp_path: Path) -> None:
    page = run(
        tmp_path,
        """
        ```sh
        mkdir job && cd job
        export COLOUR=red
        ```

        Save this:

        ```yaml title="job.yaml"
        job: sample
        ```

        Then:

        ```sh
        echo $COLOUR > colour && test -f job.yaml
        ```
        """,
    )
    assert (page / "job" / "colour").read_text() == "red\n"


def test_each_party_has_a_folder_and_a_state_folder(tmp_path: Path) -> None:
    page = run(
        tmp_path,
        """
        ```csv title="alice/in.csv"
        id
        ```

        ```sh title="alice"
        test -f in.csv && echo $PSICLI_STATE_DIR > state
        ```

        ```sh title="bob"
        echo $PSICLI_STATE_DIR > state
        ```
        """,
    )
    assert (page / "alice" / "state").read_text() != (page / "bob" / "state").read_text()


WAITING = "mkfifo pipe; echo here > pipe"
ANSWERING = "until [ -p pipe ]; do sleep 0.05; done; cat pipe"


@pytest.mark.parametrize(
    "text",
    [
        f'```sh title="alice"\ncd ..; {WAITING}\n```\n\n```sh title="bob"\ncd ..; {ANSWERING}\n```\n',
        f'```sh title="first terminal"\n{WAITING}\n```\n\nProse.\n\n```sh title="second terminal"\n{ANSWERING}\n```\n',
        f'```sh title="alice"\ncd ..; {WAITING}\n```\n\n<!-- test: {ANSWERING} -->\n\nProse.\n',
    ],
)
def test_blocks_that_need_each_other_run_at_the_same_time(tmp_path: Path, text: str) -> None:
    run(tmp_path, text)


def test_a_command_that_is_not_shown_runs_before_the_block_below_it(tmp_path: Path) -> None:
    text = '```sh title="bob"\necho 1 > a\n```\n\n<!-- test: cp bob/a alice/ -->\n```sh title="alice"\ncat a\n```\n'
    assert [len(group) for group in groups(blocks(tmp_path, text))] == [1, 1, 1]


def test_addresses_are_replaced(tmp_path: Path) -> None:
    page = run(tmp_path, '```csv title="job.csv"\nalice.example.com:9560,0.0.0.0:9560\n```\n')
    assert (page / "job.csv").read_text() == "127.0.0.1:4711,127.0.0.1:4711\n"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("done in 3.1 s, 17 MB", "done in 2.9 s, 304 MB"),
        ("pid 17, port 18560, since 2026-11-22T02:00:01+00:00", "pid 4711, port 9560, since 2026-11-29T12:00:00+00:00"),
        ("a b", "a   b"),
        ("1\n2\n3\n4", "2\n3"),
        ("1\n2\n3\n4", "1\n…\n4"),
    ],
)
def test_outputs_are_compared(tmp_path: Path, printed: str, shown: str) -> None:
    run(tmp_path, f"```sh\nprintf {printed + chr(10)!r}\n```\n\nThat prints:\n\n```text\n{shown}\n```\n")


@pytest.mark.parametrize(
    ("printed", "shown"), [("3 rows", "4 rows"), ("1\n2\n3\n4", "1\n3"), ("1\n2", "2\n…\n1"), ("ab", "a"), ("ab", "b")]
)
def test_other_outputs_are_found(tmp_path: Path, printed: str, shown: str) -> None:
    with pytest.raises(AssertionError, match=r"line \d+: expected"):
        run(tmp_path, f"```sh\nprintf {printed + chr(10)!r}\n```\n\n```text\n{shown}\n```\n")


@pytest.mark.parametrize("command", ["false", "false | true", "exit 3", "psicli run --config absent.yaml"])
def test_a_command_that_fails_is_found(tmp_path: Path, command: str) -> None:
    with pytest.raises(AssertionError, match="line 1: exit code"):
        run(tmp_path, f"```sh\n{command}\ntrue\n```\n")


def test_a_command_that_never_ends_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "LIMIT", 0.5)
    with pytest.raises(AssertionError, match="none after"):
        run(tmp_path, "```sh\nsleep 1000\n```\n")


def test_what_is_not_run(tmp_path: Path) -> None:
    page = run(tmp_path, "<!-- not run: is only an example -->\n```sh\ntouch ran\n```\n\n```text\nno output\n```\n")
    assert not (page / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "```sh\npsicli run --config job.yaml --resume never\n```\n",
        "```sh\nzcat a.gz | PSICLI_PARTY=bob psicli run --config job.yaml 2> log | gzip > b.gz\n```\n",
        "```crontab\nPATH=/usr/bin\n0 2 * * *  psicli run -q --config job.yaml --set D=$(date +\\%F) || exit 1\n```\n",
        "```ini\n[Service]\nExecStart=/opt/psicli/bin/psicli run --config /etc/job.yaml\n```\n",
        "```yaml\npolicy:\n  min_peer_items: 1000\n```\n",
        "```yaml\ntasks:\n  - name: b\n    input_path: {alice: 'in/${DATE}/a.csv'}\n```\n",
        "```\nalice   <-->   bob\n```\n",
        "Text.\n\n    u8(n) || the bytes\n",
    ],
)
def test_blocks_without_mistakes(tmp_path: Path, text: str) -> None:
    (block,) = blocks(tmp_path, text)
    static.check(block)


@pytest.mark.parametrize(
    "text",
    [
        "```sh\npsicli run --config job.yaml --resumed never\n```\n",
        "```sh\nzcat a.gz | psicli ran --config job.yaml\n```\n",
        "```sh\nmake tests\n```\n",
        "```sh\n.venv/bin/pytest tests/unit/absent\n```\n",
        "```crontab\n0 2 * *  psicli run --config job.yaml\n```\n",
        "```crontab\n0 2 * * *  psicli run --configuration job.yaml\n```\n",
        "```ini\nExecStart=/opt/psicli/bin/psicli run --config /etc/job.yaml\n```\n",
        "```ini\n[Service]\nExecStart=/opt/psicli/bin/psicli run\n```\n",
        "```yaml\npolicy:\n  min_rows: 1000\n```\n",
        "```yaml\npipeline: {memory: 1MB}\n```\n",
        "```json\n{\n```\n",
        "```rust\n```\n",
        f"```text\n{'x' * 81}\n```\n",
        "```\npsicli run --config job.yaml\n```\n",
        "Text.\n\n    make demo\n",
    ],
)
def test_blocks_with_mistakes(tmp_path: Path, text: str) -> None:
    (block,) = blocks(tmp_path, text)
    with pytest.raises((AssertionError, click.UsageError, JobFileError, ValueError, configparser.Error)):
        static.check(block)


@pytest.mark.parametrize("text", ["```sh\ntrue\n", "```sh {.class}\ntrue\n```\n", "~~~`x```\n"])
def test_fences_that_are_not_understood(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssertionError, match="line 1"):
        blocks(tmp_path, text)
