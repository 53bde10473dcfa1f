"""The job files that `psicli init` writes: they load, they agree, and no name breaks them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from psicli.config import Job, load_job, load_parties
from psicli.core.errors import FileThereError
from psicli.core.formats import Dialect, FileFormat, Format
from psicli.setup.files import write_files
from psicli.setup.plan import Plan, PlannedTask, Side
from psicli.setup.render import path_text, quoted

CSV = FileFormat(Format.CSV)
HOSTILE = [
    *("a: b", "a #b", " x ", "'", '"', "it's", "\\", "\\n", "yes", "no", "NULL", "~", "true", "17", "1e3", "0x1F", "-"),
    *("", "a,b", "[a]", "{a}", "@a", "@name", "$a", "${a}", "%", "!a", "&a", "*a", "?", ": ", "a\tb", "a\nb", "a\r\nb"),
    *("\u00e9", "e\u0301", "\u540d\u524d", "\U0001f600", "\ufeffid", "\u200b", "\u0085", "\u2028", "\x00", "\x7f"),
    *("<<", "...", "---", "- a", "a:", "\xa0", "x" * 300, "CHANGE-ME"),
]  # fmt: skip


def plan(folder: Path, **changes: object) -> Plan:
    own = Side(folder / "in" / "own.csv", CSV, ("mail",), ("email",))
    peer = Side(folder / "in" / "peer.csv", CSV, ("hash",), ("hashed",))
    task = PlannedTask("t", {"alice": own, "bob": peer}, ("email/sha256",), ("why",), {"alice": (), "bob": ()})
    usual = Plan("job", "alice", "bob", "alice", "127.0.0.1:9560", "alice", folder, (task,), False, False)
    return replace(usual, **changes)  # type: ignore[arg-type]


def loaded(written: Plan) -> list[Job]:
    write_files(written)
    return [load_job(written.job_file(party), variables={}) for party in (written.party, written.peer)]


def terms(job: Job) -> object:
    """Return what the two parties of a job must agree on."""
    tasks = [
        (task.name, task.receiver, task.broadcast_result, [form.agreed for form in task.forms]) for task in job.tasks
    ]
    return job.name, {job.party, job.peer}, job.listener.address, tasks


@pytest.mark.parametrize("name", HOSTILE)
def test_quoting_keeps_every_text(name: str) -> None:
    assert yaml.safe_load(quoted(name)) == name
    assert yaml.safe_load(f"{{{quoted(name)}: [{quoted(name)}]}}") == {name: [name]}
    assert quoted(name).isprintable()


@pytest.mark.sample(17)
@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_every_column_name_stays_what_it_is(tmp_path: Path, name: str) -> None:
    usual = plan(tmp_path)
    (task,) = usual.tasks
    sides = {party: replace(side, keys=(name,)) for party, side in task.sides.items()}
    for job in loaded(replace(usual, tasks=(replace(task, sides=sides),))):
        assert tuple(job.tasks[0].keys) == (name,)


@pytest.mark.parametrize(
    "name", ["a b.csv", "~x.csv", "-x.csv", "${HOME}.csv", "#.csv", "'.csv", "\u540d.csv", "a: b.csv"]
)
def test_every_path_stays_what_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "jobs").mkdir()
    usual = plan(tmp_path / "jobs")
    (task,) = usual.tasks
    for path in (tmp_path / "jobs" / name, tmp_path / name):
        sides = {**task.sides, "alice": replace(task.sides["alice"], path=path)}
        own, peer = loaded(replace(usual, tasks=(replace(task, sides=sides),)))
        assert os.path.abspath(str(own.tasks[0].input.paths[0])) == str(path)
        for job in (own, peer):
            job.path.unlink()
    with pytest.raises(ValueError, match="no job file can hold the path"):
        path_text(tmp_path / "a\nb.csv", tmp_path)


@pytest.mark.parametrize("listener", ["alice", "bob"])
@pytest.mark.parametrize("receiver", ["alice", "bob"])
@pytest.mark.parametrize("is_trial", [True, False])
def test_the_two_files_agree(tmp_path: Path, listener: str, receiver: str, is_trial: bool) -> None:
    usual = plan(tmp_path, listener=listener, receiver=receiver)
    (task,) = usual.tasks
    if not is_trial:
        task = replace(task, sides={"alice": task.sides["alice"]})
    second = replace(task, name="t-2", forms=("text",))
    second = replace(second, sides={party: replace(side, normalize=("",)) for party, side in task.sides.items()})
    own, peer = loaded(replace(usual, tasks=(task, second)))
    assert terms(own) == terms(peer)
    assert (own.listens, peer.listens) == (listener == "alice", listener == "bob")
    assert [job.tasks[0].output_path is not None for job in (own, peer)] == [receiver == "alice", receiver == "bob"]
    if is_trial:
        assert [job.party for job in load_parties(own.path, {})] == [
            listener,
            "bob" if listener == "alice" else "alice",
        ]
    else:
        # A partner elsewhere learns neither the paths nor the columns of this party.
        assert "own.csv" not in peer.path.read_text()
        assert "column: mail" not in peer.path.read_text()
        assert "why" not in peer.path.read_text()
        assert str(peer.tasks[0].input.paths[0]).endswith("in/CHANGE-ME.csv")


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        ("email/sha256", "If your column holds SHA-256 hashes already, write {column: NAME, normalize: hashed}."),
        ("date", "If your dates begin with the day, write {column: NAME, normalize: date/DMY}, and with the month"),
        ("phone/FR", "write {column: NAME, normalize: phone/DE} for those in Germany."),
        ("uuid", ""),
    ],
)
def test_a_partner_reads_how_to_say_how_its_own_values_are_written(tmp_path: Path, form: str, advice: str) -> None:
    usual = plan(tmp_path)
    (task,) = usual.tasks
    task = replace(task, sides={"alice": replace(task.sides["alice"], normalize=("",))}, forms=(form,))
    own, peer = loaded(replace(usual, tasks=(task,)))
    comment = " ".join(line.strip("# ") for line in peer.path.read_text().splitlines())
    assert ("{column: NAME" in comment) == bool(advice)
    assert advice in comment
    assert "NAME" not in own.path.read_text()
    assert all(len(line) <= 80 for job in (own, peer) for line in job.path.read_text().splitlines())


def test_how_a_csv_file_is_written_gets_into_the_file_of_its_party(tmp_path: Path) -> None:
    usual = plan(tmp_path)
    (task,) = usual.tasks
    odd = FileFormat(Format.CSV, dialect=Dialect("\t", "utf-16", header=False))
    sides = {**task.sides, "alice": replace(task.sides["alice"], format=odd)}
    written = replace(usual, tasks=(replace(task, sides=sides),))
    own, peer = loaded(written)
    assert own.tasks[0].input.dialect == odd.dialect
    assert peer.tasks[0].input.dialect == CSV.dialect
    assert not written.can_be_simulated
    assert usual.can_be_simulated


def test_certificates_are_named_and_secret(tmp_path: Path) -> None:
    own, peer = loaded(plan(tmp_path, with_tls=True, makes_certificates=True))
    for job in (own, peer):
        assert job.tls is not None
        assert job.tls.private_key_file == tmp_path / "certs" / f"{job.party}.key"
        assert job.tls.private_key_file.stat().st_mode & 0o777 == 0o600
        assert job.tls.certificate_file.is_file()
    assert sorted(os.listdir(tmp_path / "certs")) == [
        "alice.key",
        "alice.pem",
        "bob.key",
        "bob.pem",
        "ca.key",
        "ca.pem",
    ]
    assert (tmp_path / "certs").stat().st_mode & 0o777 == 0o700


# Nothing is overwritten ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice.yaml", "bob.yaml", "certs/ca.key", "certs/bob.pem"])
@pytest.mark.parametrize("kind", ["file", "link to nothing", "folder"])
def test_nothing_is_written_if_one_file_is_there(tmp_path: Path, name: str, kind: str) -> None:
    there = tmp_path / name
    there.parent.mkdir(exist_ok=True)
    if kind == "file":
        there.write_text("mine")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileThereError) as refused:
        write_files(plan(tmp_path, with_tls=True, makes_certificates=True))
    assert refused.value.code == 73
    assert refused.value.message.startswith(f"{there}: the file already exists")
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "file" or there.read_text() == "mine"


def test_what_was_written_is_removed_if_a_later_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody makes a file between the check and the writing."""
    monkeypatch.setattr("psicli.setup.files.refuse_existing", lambda _: None)
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "bob.yaml").write_text("mine")
    with pytest.raises(FileThereError):
        write_files(plan(folder, with_tls=True, makes_certificates=True))
    assert [path.name for path in folder.iterdir()] == ["bob.yaml"]
    (folder / "bob.yaml").unlink()
    (tmp_path / "new").rmdir()
    with pytest.raises(ValueError, match="no job file can hold"):
        write_files(plan(folder, tasks=(_with_path(plan(folder), folder / "a\nb.csv"),)))
    assert not folder.exists()


def _with_path(usual: Plan, path: Path) -> PlannedTask:
    (task,) = usual.tasks
    return replace(task, sides={"alice": replace(task.sides["alice"], path=path)})
