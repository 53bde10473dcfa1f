"""`psicli init` with options that are missing or wrong, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from psicli.cli.main import cli
from psicli.core.errors import PsicliError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which has two files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "customers.csv").write_text("id,mail\n1,a@example.com\n2,b@example.com\n")
    (tmp_path / "crm.csv").write_text("mail\nb@example.com\n")
    return tmp_path


BOTH = ["--input", "customers.csv", "--peer-input", "crm.csv"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "Give --party, --peer, --address and --input. For a trial"),
        (["--input", "customers.csv"], "Give --party, --peer and --address. For a trial"),
        (["--input", "customers.csv", "--party", "a", "--peer", "b", "--yes"], "Give --address. For a trial"),
        (["--peer-input", "crm.csv"], "Give --input. For a trial"),
        (["--party", "Alice"], "Invalid value for '--party': 'Alice' is not a name"),
        (["--address", "x"], "Invalid value for '--address': 'x' is not a host followed by a port"),
        (["--form", "e-mail"], "Invalid value for '--form': 'e-mail' is not a key form; did you mean email?"),
        (["--form", "phone/de"], "'phone/de' is not a key form; did you mean phone/DE?"),
        (["--form", "phone/XX"], "'XX' is not a region of phone numbers"),
        (["--form", "key"], "phone, phone/REGION, date, date/DMY, date/MDY, timestamp, uuid, each also with /sha256"),
        (["--region", "Germany"], "Invalid value for '--region': 'Germany' is not a region"),
        (["--region", "XX"], "Invalid value for '--region': 'XX' is not a region"),
        ([*BOTH, "--receiver", "eve"], "'eve' is neither alice nor bob"),
        ([*BOTH, "--listener", "eve"], "'eve' is neither alice nor bob"),
        ([*BOTH, "--peer", "alice"], "the two parties need different names"),
        ([*BOTH, "--input", "crm.csv"], "Give --peer-input as often as --input, or not at all"),
        ([*BOTH, "--key", "id", "--key", "mail"], "Name as many columns with --peer-key: 2."),
        ([*BOTH, "--party", "ca", "--certs"], "no party can be called ca"),
    ],
)
def test_what_is_missing_or_wrong_is_a_usage_error(folder: Path, arguments: list[str], fault: str) -> None:
    before = sorted(folder.iterdir())
    done = CliRunner().invoke(cli, ["init", *arguments])
    assert (done.exit_code, done.stdout, fault in done.stderr) == (2, "", True), done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "code", "fault"),
    [
        ("x.csv", None, 66, "x.csv: no such file"),
        ("x.csv", "", 65, "x.csv: the file is empty"),
        ("x.csv", "a,b\n1,2,3\n", 65, "x.csv:2: the row has 3 fields"),
        ("x.txt", "a\n", 78, "x.txt"),
        ("bob.yaml", "mine", 73, "bob.yaml: the file already exists, and this command never overwrites a file"),
    ],
)
def test_a_bad_file_has_its_own_error(folder: Path, name: str, content: str | None, code: int, fault: str) -> None:
    if content is not None:
        (folder / name).write_text(content)
    before = sorted(folder.iterdir())
    peer = "crm.csv" if name == "bob.yaml" else name
    done = CliRunner().invoke(cli, ["init", "--input", "customers.csv", "--peer-input", peer])
    assert isinstance(done.exception, PsicliError)
    assert (done.exception.code, fault in done.exception.message) == (code, True), done.exception.message
    assert sorted(folder.iterdir()) == before
