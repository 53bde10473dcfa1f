"""`psicli init`: from two files to the first result."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.runner import free_ports
from support.waiting import DEADLINE

MAILS = [f"Person.{number}@Example.com" for number in range(30)]
HASHES = [hashlib.sha256(mail.lower().encode()).hexdigest() for mail in MAILS]


def environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
    return {**inherited, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "200"}


def psicli(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run psicli without a terminal; return its exit code, its standard output and its standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "psicli", *arguments],
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def write(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def read(path: Path) -> list[list[str]]:
    return [*csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))]


def commands(said: str) -> list[list[str]]:
    """Return the commands that the last lines say to type."""
    return [
        line.split() for line in said.splitlines() if line.startswith("  ") and re.match("psicli|cat", line.strip())
    ]


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    """Return a folder with one list of 30 addresses, and another with the hashes of 20 of them."""
    write(tmp_path / "a-customers.csv", [("id", "mail", "since"), *((n, f" {m}", "2024") for n, m in enumerate(MAILS))])
    write(tmp_path / "b-crm.csv", [("name", "email_hash"), *((f"n{n}", h.upper()) for n, h in enumerate(HASHES[10:]))])
    return tmp_path


@pytest.mark.more
def test_a_trial_needs_two_options_and_two_commands(two_files: Path) -> None:
    code, said, errors = psicli(two_files, "init", "--input", "a-customers.csv", "--peer-input", "b-crm.csv")
    assert (code, errors) == (0, "")
    assert "task a-customers: 'mail' of alice and 'email_hash' of bob, key_form email/sha256\n" in said
    assert "20 of the 30 distinct keys" in said
    assert not [text for text in [*MAILS, *HASHES] if text in said]
    simulate, cat = commands(said)
    assert simulate == ["psicli", "simulate", "alice.yaml"]
    assert cat == ["cat", "out/a-customers.csv"]
    # The simulation shows that the other job file is sound.
    with free_ports(1) as (port,):
        code, checked, _ = psicli(two_files, "check", "--wait", "0", "bob.yaml", "--port-offset", str(port - 9560))
    assert (code, "0 fail" in checked) == (0, True), checked
    assert psicli(two_files, *simulate[1:])[0] == 0
    rows = read(two_files / cat[1])
    assert rows[0] == ["id", "mail", "since"]
    assert sorted(int(row[0]) for row in rows[1:]) == [*range(10, 30)]


@pytest.mark.more
def test_hashes_on_both_sides(tmp_path: Path) -> None:
    """Some rows of both parties have the hash of an empty value, which is no key."""
    nothing = hashlib.sha256(b"").hexdigest()
    write(tmp_path / "a.csv", [("n", "h"), *((n, each) for n, each in enumerate([*HASHES[:20], nothing, nothing]))])
    write(tmp_path / "b.csv", [("digest",), *((each.upper(),) for each in [*HASHES[10:], nothing])])
    code, said, _ = psicli(tmp_path, "init", "--input", "a.csv", "--peer-input", "b.csv")
    assert (code, "'h' of alice and 'digest' of bob, key_form text/sha256" in said) == (0, True), said
    assert psicli(tmp_path, "simulate", "alice.yaml")[0] == 0
    assert sorted(int(row[0]) for row in read(tmp_path / "out" / "a.csv")[1:]) == [*range(10, 20)]


@pytest.mark.more
def test_parquet_and_json_lines(tmp_path: Path) -> None:
    pq.write_table(pa.table({"amount": [0.5] * 30, "number": range(30)}), tmp_path / "in.parquet")
    lines = [json.dumps({"ref": f"00{number}.0", "tags": ["a", "b"]}) + "\n" for number in range(20, 50)]
    (tmp_path / "peer.jsonl").write_text("".join(lines))
    code, said, _ = psicli(
        tmp_path, "init", "--input", "in.parquet", "--peer-input", "peer.jsonl", "--receiver", "bob", "--folder", "jobs"
    )
    assert (code, "'number' of alice and 'ref' of bob, key_form integer" in said) == (0, True), said
    simulate, cat = commands(said)
    assert psicli(tmp_path, *simulate[1:])[0] == 0
    assert cat == ["cat", "jobs/out/in.jsonl"]
    assert (tmp_path / cat[1]).read_text() == "".join(lines[:10])


@pytest.mark.more
def test_several_inputs_are_several_tasks(two_files: Path) -> None:
    write(two_files / "Customers 2.csv", [("mail",), *((mail,) for mail in MAILS[:5])])
    arguments = ["--input", "a-customers.csv", "--input", "Customers 2.csv", "--peer-input", "b-crm.csv"]
    code, _, errors = psicli(two_files, "init", *arguments)
    assert (code, "Give --peer-input as often as --input" in errors) == (2, True)
    code, said, _ = psicli(two_files, "init", *arguments, "--peer-input", "b-crm.csv")
    assert code == 0
    assert commands(said)[1:] == [["cat", "out/a-customers.csv"], ["cat", "out/customers-2.csv"]]
    assert psicli(two_files, "simulate", "alice.yaml")[0] == 0
    assert (two_files / "out" / "customers-2.csv").read_text() == "mail\n"


@pytest.mark.more
def test_hostile_column_names(tmp_path: Path) -> None:
    hostile = ['a: "b" #c', " x ", "yes", "\u540d,\u524d", "line\nbreak", "{a}", "@name", "${a}"]
    arguments = []
    for at, name in enumerate(hostile):
        for option, path in (("--input", f"own-{at}.csv"), ("--peer-input", f"peer-{at}.csv")):
            write(tmp_path / path, [("n", name), *((1, f"c-{number}") for number in range(5))])
            arguments += [option, path]
    code, said, errors = psicli(tmp_path, "init", *arguments)
    assert (code, errors) == (0, "")
    assert said.isprintable() or said.replace("\n", "").isprintable()
    assert psicli(tmp_path, "simulate", "alice.yaml")[0] == 0
    for at, name in enumerate(hostile):
        assert read(tmp_path / "out" / f"own-{at}.csv") == [["n", name], *(["1", f"c-{number}"] for number in range(5))]


def test_two_processes_with_the_job_files_and_certificates(two_files: Path) -> None:
    """The CSV files are not written alike, so no single job file fits both parties."""
    write(two_files / "b-crm.csv", [("name", "mail"), *((n, mail) for n, mail in enumerate(MAILS[10:]))], ";")
    with free_ports(1) as (port,):
        code, said, _ = psicli(
            two_files, "init", "--input", "a-customers.csv", "--peer-input", "b-crm.csv", "--certs",
            "--address", f"127.0.0.1:{port}", "--party", "anna", "--peer", "otto",
        )  # fmt: skip
        assert (code, "b-crm.csv: its delimiter is ';'" in said) == (0, True)
        assert "Never give these away: certs/ca.key, certs/anna.key\n" in said
        assert [command[:2] for command in commands(said)[:2]] == [["psicli", "run"]] * 2
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "psicli", "run", f"{party}.yaml"], cwd=two_files, env=environment(two_files),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for party in ("anna", "otto")
        ]  # fmt: skip
        printed = [run.communicate(timeout=DEADLINE)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert len((two_files / "out" / "a-customers.csv").read_text().splitlines()) == 21


@pytest.mark.more
def test_a_partner_elsewhere_completes_the_other_file(two_files: Path) -> None:
    with free_ports(1) as (port,):
        code, said, _ = psicli(
            two_files, "init", "--input", "a-customers.csv", "--party", "anna", "--peer", "otto", "--key", "mail",
            "--address", f"anna.example.com:{port}",
        )  # fmt: skip
        assert code == 0
        assert "docs/two-machines.md says how to make them" in said
        assert "Send otto.yaml to otto, who changes the lines that say so." in said
        assert (two_files / "otto.yaml").read_text().count("# change this: ") == 2
        code, checked, _ = psicli(two_files, "check", "--wait", "0", "anna.yaml")
    # All that is missing is the certificates.
    assert re.findall("^fail +([^ ]+)", checked, re.MULTILINE) == ["certificate"]
    assert code == 77


# On a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """psicli on a pseudo-terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        # With a session of its own, the terminal's Ctrl-C reaches psicli and not the test.
        self.popen = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, "-m", "psicli", *arguments],
            cwd=folder, env=environment(folder), stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def _read(self) -> bool:
        """Read what psicli shows next; return whether it still runs."""
        ready, _, _ = select.select([self._master], [], [], DEADLINE)
        assert ready, f"nothing follows {self.shown}"
        try:
            self.shown += os.read(self._master, 4096).decode()
        except OSError:
            return False
        return True

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type an answer."""
        while question not in self.shown:
            assert self._read(), f"{question!r} is not in {self.shown}"
        self.shown = self.shown.partition(question)[2]
        os.write(self._master, text.encode())

    def end(self, key: str = "") -> int:
        """Wait for the end and return the exit code; key: typed again each second.

        readline overlooks a Ctrl-C between its prompt and its wait for a key, until the next key comes.
        """
        for _ in range(int(DEADLINE) if key else 0):
            if not select.select([self._master], [], [], 1.0)[0]:
                os.write(self._master, key.encode())
            elif not self._read():
                break
        else:
            while self._read():
                pass
        os.close(self._master)
        return self.popen.wait(DEADLINE)


QUESTIONS = (
    "Name of your own party [alice]: ",
    "Name of the other party [bob]: ",
    "File of alice [a-customers.csv]: ",
    "else none [b-crm.csv]: ",
    "Key column of alice [mail]: ",
    "Key column of bob [email_hash]: ",
    "Form of the keys [email/sha256]: ",
    "HOST:PORT [127.0.0.1:9560]: ",
    "Party that learns which of its rows match [alice]: ",
    "Make certificates for both parties? (y/n) [n]: ",
)


@pytest.mark.more
def test_enter_answers_every_question(two_files: Path) -> None:
    terminal = Terminal(two_files, "init")
    for question in QUESTIONS:
        terminal.answer(question, "\n")
    assert terminal.end() == 0
    assert "  psicli simulate alice.yaml\r\n  cat out/a-customers.csv" in terminal.shown
    asked = (two_files / "alice.yaml").read_text()
    code, _, _ = psicli(
        two_files, "init", "--input", "a-customers.csv", "--peer-input", "b-crm.csv", "--folder", "again"
    )
    assert code == 0
    # The same answers as options, but for the paths from another folder.
    assert len(asked.splitlines()) == len((two_files / "again" / "alice.yaml").read_text().splitlines())
    assert "      bob: [{column: email_hash, normalize: hashed}]\n" in asked


@pytest.mark.more
def test_a_wrong_answer_is_asked_for_again(two_files: Path) -> None:
    terminal = Terminal(two_files, "init", "--peer", "otto")
    terminal.answer("Name of your own party [alice]: ", "Anna\n")
    terminal.answer("Name of your own party [alice]: ", "anna\n")
    terminal.answer("File of anna [a-customers.csv]: ", "nothing.csv\n")
    terminal.answer("File of anna [a-customers.csv]: ", "\n")
    terminal.answer("else none [b-crm.csv]: ", "none\n")
    terminal.answer("Key column of anna [mail]: ", "Mail\n")
    terminal.answer("Key column of anna [mail]: ", "\n")
    terminal.answer("Form of the keys [email]: ", "email/sha256\n")
    terminal.answer("Address at which anna can be reached, HOST:PORT: ", "anna.example.com:9560\n")
    terminal.answer("which of its rows match [anna]: ", "otto\n")
    terminal.answer("Make certificates for both parties? (y/n) [y]: ", "n\n")
    assert terminal.end() == 0
    assert "key_form: [email/sha256]" in (two_files / "otto.yaml").read_text()


@pytest.mark.more
@pytest.mark.parametrize(("key", "code"), [("\x03", 130), pytest.param("\x04", 2, marks=pytest.mark.more)])
def test_ctrl_c_and_ctrl_d_leave_nothing(two_files: Path, key: str, code: int) -> None:
    before = sorted(two_files.iterdir())
    terminal = Terminal(two_files, "init")
    for question in QUESTIONS[:-1]:
        terminal.answer(question, "\n")
    terminal.answer(QUESTIONS[-1], key)
    assert terminal.end(key) == code
    assert sorted(two_files.iterdir()) == before


@pytest.fixture
def two_lists_of_numbers(tmp_path: Path) -> Path:
    """Return a folder with two lists of 30 phone numbers without a country code; 20 are in both."""
    numbers = [f"151234567{number:02d}" for number in range(40)]
    write(tmp_path / "a.csv", [("nr", "mobile"), *((f"c-{n}", f"0{number}") for n, number in enumerate(numbers[:30]))])
    write(tmp_path / "b.csv", [("ref", "tel"), *((f"d-{n}", f"0{number}") for n, number in enumerate(numbers[10:]))])
    return tmp_path


@pytest.mark.more
@pytest.mark.parametrize(("region", "form"), [("de", "phone/DE"), ("", "phone")])
def test_the_region_of_phone_numbers_is_asked_for(two_lists_of_numbers: Path, region: str, form: str) -> None:
    terminal = Terminal(two_lists_of_numbers, "init", "--party", "alice", "--peer", "bob")
    terminal.answer("File of alice [a.csv]: ", "\n")
    terminal.answer("else none [b.csv]: ", "\n")
    terminal.answer("Key column of alice [mobile]: ", "\n")
    terminal.answer("Key column of bob [tel]: ", "\n")
    terminal.answer("Form of the keys [phone]: ", "fone\n")
    terminal.answer("did you mean phone?", "")
    terminal.answer("Form of the keys [phone]: ", "\n")
    question = "Region of the 60 phone numbers without a country code, such as DE"
    if region:
        terminal.answer(question, "Germany\n")
        terminal.answer("'Germany' is not a region", "")
    terminal.answer(question, f"{region}\n")
    for question in QUESTIONS[-3:]:
        terminal.answer(question, "\n")
    assert terminal.end() == 0
    assert f"key_form: [{form}]\n" in (two_lists_of_numbers / "alice.yaml").read_text()


@pytest.mark.more
def test_the_form_is_asked_for_after_other_columns_and_if_it_is_text(two_lists_of_numbers: Path) -> None:
    terminal = Terminal(two_lists_of_numbers, "init", "--party", "alice", "--peer", "bob")
    terminal.answer("File of alice [a.csv]: ", "\n")
    terminal.answer("else none [b.csv]: ", "\n")
    terminal.answer("Key column of alice [mobile]: ", "nr\n")
    terminal.answer("Key column of bob [tel]: ", "ref\n")
    terminal.answer("Form of the keys [text]: ", "trim\n")
    for question in QUESTIONS[-3:]:
        terminal.answer(question, "\n")
    assert terminal.end() == 0
    asked = (two_lists_of_numbers / "alice.yaml").read_text()
    assert "      alice: [nr]\n      bob: [ref]\n    key_form: [trim]\n" in asked
