"""Paths in job files: the forms people write, and outputs that would replace a file of the job."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from support.job_files import SMALL, TASK, Errors, Load, starts, with_nodes, with_paths

from psicli.config import load_parties
from psicli.core.errors import JobFileError

IN, OUT = "11: tasks[0].input_path.alice: ", "12: tasks[0].output_path.alice: "

# Forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ["alice", "bob"])
@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:HIDDEN@host/db",
        "https://x.example/in.txt?sig=HIDDEN",
        "s3://k:HIDDEN/HIDDEN@b/in.txt",
        "jdbc:postgresql://host/db?password=HIDDEN",
    ],
)
def test_a_message_does_not_repeat_the_secrets_of_a_url(errors: Errors, party: str, url: str) -> None:
    (line,) = errors(
        with_paths(f"{{alice: in.csv, {party}: '{url}'}}".replace("alice: in.csv, a", "a"), "{alice: o.csv}")
    )
    assert "://" in line
    assert "HIDDEN" not in line


def test_a_path_that_the_file_system_refuses_is_no_folder(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening such an input says why."""
    long = "x" * 5000 + ".csv"
    assert load(with_paths(f"{{alice: {long}}}", "{alice: out.csv}")).tasks[0].input.paths[0] == tmp_path / long

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    assert load(with_paths("{alice: in/in.csv}", "{alice: out/out.csv}")).tasks


def test_letters_that_the_locale_has_not_are_an_error(errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(name: str) -> bytes:
        return name.encode("ascii")

    monkeypatch.setattr(os, "fsencode", encode)
    what = "has letters that no file name can have in this locale; set LC_ALL to a UTF-8 locale"
    starts(
        errors(with_paths("{alice: 'é.csv'}", "{alice: 'ö.csv'}")),
        f"{IN}'é.csv' {what}",
        f"{OUT}'ö.csv' {what}",
    )
    files = "{ca_file: ca.pem, certificate_file: é.pem, private_key_file: a.key}"
    found = errors(with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"  tls: {files}\n"))
    starts(found, f"7: cluster.tls.certificate_file: 'é.pem' {what}")


def test_a_pattern_is_an_input_and_no_output(tmp_path: Path, load: Load, errors: Errors) -> None:
    for name in ("b[1].csv", "b1.csv", "really?.csv"):
        (tmp_path / name).touch()
    for text in ("a*.csv", "?.csv", "in/**/a[0-9].parquet", "in/day=*", "export [new].csv"):
        assert load(with_paths(f"{{alice: '{text}'}}", "{alice: o/out.csv}")).tasks[0].input.paths == (tmp_path / text,)
    (line,) = errors(with_paths("{alice: '*.txt'}", "{alice: o/out.csv}"))
    assert line.startswith(f"{IN}'*.txt' has no known suffix; rename or link it")
    starts(errors(with_paths("{alice: b1.csv}", "{alice: 'out/*.csv'}")), f"{OUT}'out/*.csv' is a pattern, and a task")
    # A file with such a name is that file.
    for text in ("b[1].csv", "really?.csv"):
        assert load(with_paths(f"{{alice: '{text}'}}", "{alice: out.csv}")).tasks[0].input.paths[0] == tmp_path / text


def test_a_folder_is_an_input(tmp_path: Path, load: Load) -> None:
    """Spark writes a folder with the name of a file."""
    (tmp_path / "in.parquet").mkdir()
    for text in ("in.parquet", "in.parquet/", "later/", "."):
        task = load(with_paths(f"{{alice: {text}}}", "{alice: '-'}")).tasks[0]
        assert task.input.paths == (tmp_path / text,)


@pytest.mark.parametrize("text", ["in", "in/*.csv", "in/**", "in/*/[o]*", "."])
def test_an_output_must_not_become_an_input(tmp_path: Path, errors: Errors, text: str) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    starts(
        errors(with_paths(f"{{alice: '{text}'}}", f"{{alice: in/{'deep/' if '/*/' in text else ''}out.csv}}")),
        f"{OUT}is a file of tasks[0].input_path.alice (line 11); write it to a folder of its own",
    )


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a.txt", "rename or link it"),
        ("a.XLSX", "save the sheet as CSV"),
        ("a.csv.zip", "unpack"),
        ("a.csv.XZ", "decompress it first"),
        ("a.csv.gpg", "decrypt it first"),
        ("a.tab", "rename or link it"),
        ("a.json", "convert it to CSV or Parquet, or rename it to .jsonl"),
        ("a", "use one of "),
    ],
)
def test_other_suffixes_have_their_own_advice(errors: Errors, name: str, right: str) -> None:
    (line,) = errors(with_paths(f"{{alice: {name}}}", "{alice: out.csv}"))
    assert line.startswith(f"{IN}'{name}' has no known suffix; {right}")
    (line,) = errors(with_paths("{alice: in.csv}", f"{{alice: {name}}}"))
    assert line.startswith(f"{OUT}'{name}' has no known suffix; use one of .csv, ")
    assert line.endswith(" or - for standard output")


# Home folders and variables ---------------------------------------------------------------------------------------


def test_home_folders(load: Load, errors: Errors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/alice")
    user = pwd.getpwuid(os.getuid())
    job = load(with_paths('{alice: "~/${DATE}.csv"}', f"{{alice: ~{user.pw_name}/out.csv}}"), variables={"DATE": "d"})
    assert job.tasks[0].input.paths[0] == Path("/home/of/alice/d.csv")
    assert job.tasks[0].output_path == Path(user.pw_dir) / "out.csv"
    files = "{ca_file: ~/ca.pem, certificate_file: ~/a.pem, private_key_file: a.key}"
    tls = load(with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"  tls: {files}\n")).tls
    assert tls is not None
    assert (tls.ca_file, tls.private_key_file) == (Path("/home/of/alice/ca.pem"), tmp_path / "a.key")
    starts(
        errors(with_paths("{alice: ~no-such-user/in.csv}", "{alice: out.csv}")),
        f"{IN}there is no user 'no-such-user'; write the path in full",
    )
    # The name of a file may begin with ~.
    assert load(with_paths("{alice: '~in.csv'}", "{alice: out.csv}")).tasks[0].input.paths[0] == tmp_path / "~in.csv"


def test_an_undefined_variable_is_one_error(errors: Errors) -> None:
    tasks = [TASK.replace("name: t", f"name: t{n}").replace("in.csv", '"${DATE}/in.csv"') for n in range(24)]
    text = SMALL + "".join(task.replace("out.csv", f'"${{DATE}}-{n}.csv"') for n, task in enumerate(tasks))
    assert errors(text) == [
        f"{IN}${{DATE}} is not defined (lines 11, 12, 15, 16, 19 and 43 more); "
        "set it in the environment or with --set DATE=VALUE"
    ]
    starts(
        errors(with_paths('{alice: "${A}.csv"}', '{alice: "${A}-${B}.csv"}')),
        f"{IN}${{A}} is not defined (lines 11, 12); ",
        f"{OUT}${{B}} is not defined; ",
    )


# Clashes ----------------------------------------------------------------------------------------------------------


SPELLINGS = ["in.csv", "./in.csv", "sub/../in.csv", "link.csv", "folder/in.csv", "hard.csv", "folder/hard.csv"]


@pytest.fixture
def names(tmp_path: Path) -> None:
    """Make a file with many names."""
    (tmp_path / "in.csv").touch()
    (tmp_path / "link.csv").symlink_to("in.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "in.csv")
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "sub").mkdir()


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("output", SPELLINGS)
def test_an_output_must_not_be_an_input(errors: Errors, output: str) -> None:
    (line,) = errors(with_paths("{alice: in.csv}", f"{{alice: {output}}}"))
    assert line.startswith(f"{OUT}is the same file as tasks[0].input_path.alice (line 11); an output must not replace")


@pytest.mark.parametrize("output", ["./absent.csv", "sub/../absent.csv", "folder/absent.csv", "link.csv"])
def test_files_that_do_not_exist_have_many_names_too(tmp_path: Path, errors: Errors, output: str) -> None:
    (tmp_path / "link.csv").symlink_to("absent.csv")
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "sub").mkdir()
    starts(
        errors(with_paths("{alice: absent.csv}", f"{{alice: {output}}}")), f"{OUT}is the same file as tasks[0].input"
    )


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_output_must_not_be_a_file_of_the_job(
    tmp_path: Path, errors: Errors, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "job.yaml").touch()
    (tmp_path / "a.key").touch()
    link(tmp_path / "job.yaml", tmp_path / "out.csv")
    starts(errors(with_paths("{alice: in.csv}", "{alice: out.csv}")), f"{OUT}is the same file as the job file; ")
    (tmp_path / "out.csv").unlink()
    link(tmp_path / "a.key", tmp_path / "out.csv")
    files = "{ca_file: ca.pem, certificate_file: a.pem, private_key_file: a.key}"
    found = errors(with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"  tls: {files}\n"))
    starts(found, "13: tasks[0].output_path.alice: is the same file as cluster.tls.private_key_file (line 7)")


def test_an_output_that_is_not_written_replaces_nothing(load: Load) -> None:
    text = with_paths("{alice: in.csv}", "{alice: in.csv, bob: b.csv}", **{"receiver: alice": "receiver: bob"})
    assert load(text).tasks[0].output_path is None


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("output", SPELLINGS)
def test_in_a_simulation_no_output_is_the_input_of_the_other_party(tmp_path: Path, output: str) -> None:
    text = with_paths("{alice: a.csv, bob: '${IN}'}", f"{{alice: {output}}}").replace("[id]", "[id], bob: [id]")
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobFileError) as caught:
        load_parties(tmp_path / "job.yaml", {"IN": "in.csv"})
    place = f"{tmp_path}/job.yaml:{OUT}"
    assert caught.value.message.startswith(f"{place}is the same file as tasks[0].input_path.bob (line 11); an output")


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("output", SPELLINGS)
def test_without_tls_no_output_is_an_input_of_the_other_party(load: Load, errors: Errors, output: str) -> None:
    """Both parties are on this machine, perhaps with one job file."""
    text = with_paths("{alice: a.csv, bob: in.csv}", f"{{alice: {output}}}").replace("[id]", "[id], bob: [id]")
    (line,) = errors(text)
    assert line.startswith(f"{OUT}is the same file as tasks[0].input_path.bob (line 11); an output must not replace")
    # With TLS, or if there is no such file, the other party's paths belong to another machine.
    tls = "  tls: {ca_file: ca.pem, certificate_file: a.pem, private_key_file: a.key}\npsi:"
    assert load(text.replace("psi:", tls)).tasks
    assert load(text.replace("in.csv", "absent.csv").replace(output, "absent.csv")).tasks


def test_in_a_simulation_the_parties_have_outputs_of_their_own(tmp_path: Path) -> None:
    outputs = "{alice: out.csv, bob: ./out.csv}"
    text = with_paths("{alice: a.csv, bob: b.csv}", outputs).replace("[id]", "[id], bob: [id]")
    (tmp_path / "job.yaml").write_text(text)
    # Only alice writes hers.
    assert len(load_parties(tmp_path / "job.yaml", {})) == 2
    (tmp_path / "job.yaml").write_text(text.replace("{receiver: alice}", "{receiver: alice, broadcast_result: true}"))
    with pytest.raises(JobFileError, match=r"bob: is the same file as tasks\[0\]\.output_path\.alice \(line 12\)"):
        load_parties(tmp_path / "job.yaml", {})
