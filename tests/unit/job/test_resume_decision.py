"""The decision whether a task resumes, over several runs without an exchange."""

from __future__ import annotations

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

from psicli.config import load_job
from psicli.core.errors import (
    AnsweredTwiceError,
    DurationError,
    InputChangedError,
    InputMissingError,
    PsicliError,
    StorageError,
)
from psicli.core.peer_errors import PeerGoneError, PeerProtocolError
from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.finished import FinishedBins, checkpoints
from psicli.job.inputs import find_source
from psicli.job.resume import Mode, Resume
from psicli.protocol.messages import Kept
from psicli.storage.ledger import Ledger
from psicli.storage.state import task_folders
from psicli.tables import fingerprint

SID = bytes(range(32))
BINS, OWN, PEER, QUESTIONS = 16, 1000, 800, 2336


class Task:
    """One side of a task, by default the sender's, over several runs."""

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch, *, receives: bool = False) -> None:
        monkeypatch.setenv("PSICLI_STATE_DIR", str(pair.folder / "state"))
        self.party = DIALER if not receives else LISTENER
        for party in PARTIES:
            pair.path(party, "in.csv").write_bytes(b"id\na\n")
        pair.add("customers", Side(["id"], "in.csv", "out/rows.csv"), Side(["id"], "in.csv"))
        self.job = load_job(pair.job_file(self.party), variables={})
        self.ledger = Ledger(pair.folder / "state")
        self.ledger.prepare()

    def begin(self, mode: Mode = Mode.AUTO) -> tuple[Checkpoint, Kept | None]:
        """Begin a run; return its checkpoint and what it could resume from."""
        task = self.job.tasks[0]
        source = find_source(task.input, ExitStack())
        resume = Resume(mode, self.job, task, source, self.ledger)
        found = resume.find()
        resume.settle(found)
        resume.checkpoint.confirm(fingerprint(source)[:-1])
        party = SimpleNamespace(
            partition_sid=SID if found is None else found.partition_sid,
            own_count=OWN,
            peer_count=PEER,
            number_of_bins=BINS,
            questions=QUESTIONS,
            broadcast=False,
        )
        resume.checkpoint.begin(party)  # type: ignore[arg-type]
        return resume.checkpoint, found


LOST = PeerGoneError(reason="it was killed")


def test_a_bin_is_answered_at_most_twice_under_one_partition(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(pair, monkeypatch)
    for run in range(2):
        checkpoint, found = task.begin()
        assert (found is None) == (run == 0)
        checkpoint.answering(3, 0)
        checkpoint.end(LOST)
    # The receiver did not get the bin, so the third run starts over.
    checkpoint, found = task.begin()
    assert found is None
    assert task.ledger.answers(SID.hex(), LISTENER) == {3: 2}


@pytest.mark.parametrize("receives", [True, False])
def test_answers_are_recorded_with_what_the_peer_can_ask_about(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, receives: bool
) -> None:
    task = Task(pair, monkeypatch, receives=receives)
    checkpoint, _ = task.begin()
    if receives:
        checkpoint.answering_bitmaps()
    else:
        checkpoint.answering(3, 0)
    *_, last = (pair.folder / "state" / "ledger.jsonl").read_text().splitlines()
    line = json.loads(last)
    found = line["event"], line["bin"], line["items"]
    assert found == ("answer", *((-1, QUESTIONS) if receives else (3, QUESTIONS // BINS)))
    checkpoint.end(None)


def test_a_sender_has_finished_a_bin_only_when_it_has_answered_all_of_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dishonest receiver could otherwise claim a bin that this sender only began, and end the task with it."""
    task = Task(pair, monkeypatch)
    checkpoint, _ = task.begin()
    checkpoint.answering(3, 0)
    checkpoint.answering(4, 0)
    checkpoint.answered(4, bytes(32))
    checkpoint.end(LOST)
    found = task.begin()[1]
    assert found is not None
    assert found.finished == 1 << 4


def test_runs_side_by_side_have_a_checkpoint_each(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task(pair, monkeypatch)
    first, _ = task.begin()
    task.job = load_job(pair.job_file(task.party), port_offset=1, variables={})
    second, _ = task.begin()
    assert first.saved is not None
    assert second.saved is not None
    assert caplog.text == ""
    for each in (first, second):
        each.end(LOST)


def test_nothing_is_shown_or_said_of_a_run_that_succeeded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender keeps its confirmation for a receiver whose run failed, but there is nothing to resume."""
    caplog.set_level("INFO")
    task = Task(pair, monkeypatch)
    checkpoint, _ = task.begin()
    checkpoint.conclude({"output_sha256": None})
    checkpoint.end(None)
    assert len(task_folders(pair.folder / "state")) == 1
    assert checkpoints(pair.folder / "state") == []
    pair.path(task.party, "in.csv").write_bytes(b"id\nb\n")
    assert task.begin()[1] is None
    assert caplog.text == ""


def test_a_received_bin_is_kept_but_not_answered_a_third_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(pair, monkeypatch)
    for _ in range(2):
        checkpoint, _ = task.begin()
        checkpoint.answering(3, 0)
        checkpoint.answered(3, bytes(32))
        checkpoint.received(3, bytes(32))
        checkpoint.end(LOST)
    checkpoint, found = task.begin()
    assert found is not None
    assert found.finished == 1 << 3
    checkpoint.answering(4, 0)
    with pytest.raises(AnsweredTwiceError, match="task customers: alice asked a third time") as caught:
        checkpoint.answering(3, 0)
    assert task.ledger.answers(SID.hex(), LISTENER) == {3: 2, 4: 1}
    checkpoint.end(caught.value)
    assert task.begin()[1] is None


def test_a_restarted_bin_counts_as_a_second_answer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(pair, monkeypatch)
    checkpoint, _ = task.begin()
    checkpoint.answering(3, 0)
    checkpoint.end(LOST)
    checkpoint, found = task.begin()
    assert found is not None
    checkpoint.answering(3, 0)
    with pytest.raises(AnsweredTwiceError):
        checkpoint.answering(3, 1)
    assert task.ledger.answers(SID.hex(), LISTENER) == {3: 2}


def test_a_task_does_not_resume_with_other_csv_settings(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(pair, monkeypatch)
    for settings, resumes in (({}, False), ({}, True), ({"delimiter": ";"}, False)):
        pair.jobs[task.party]["csv"] = settings
        task.job = load_job(pair.job_file(task.party), variables={})
        checkpoint, found = task.begin()
        assert (found is not None) is resumes
        checkpoint.answering(0, 0)
        checkpoint.end(LOST)


@pytest.mark.parametrize("receives", [True, False])
def test_a_task_does_not_resume_for_another_output(pair: Pair, monkeypatch: pytest.MonkeyPatch, receives: bool) -> None:
    """A party without an output resumes: the settings have no effect there."""
    task = Task(pair, monkeypatch, receives=receives)
    runs = (({}, False), ({}, True), ({"rows": "unmatched"}, not receives))
    for number, (output, resumes) in enumerate(runs):
        pair.jobs[task.party]["tasks"][0]["output"] = output
        task.job = load_job(pair.job_file(task.party), variables={})
        checkpoint, found = task.begin()
        assert (found is not None) is resumes
        checkpoint.answering(number, 0)
        checkpoint.end(LOST)


def test_which_errors_keep_the_checkpoint(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost peer may come back, so the checkpoint stays; after a protocol violation or a refusal it is removed."""
    task = Task(pair, monkeypatch)
    endings: list[tuple[PsicliError | None, bool]] = [
        (LOST, True), (StorageError(path="out.csv", reason="full"), True), (PeerProtocolError(detail="wrong"), False),
        (AnsweredTwiceError(task="customers"), False), (DurationError(limit="1 min"), True),
        (InputChangedError(path="in.csv"), False), (None, False),
    ]  # fmt: skip
    for error, stays in endings:
        checkpoint, _ = task.begin()
        checkpoint.answering(0, 0)
        checkpoint.end(error)
        state = pair.folder / "state"
        assert (checkpoints(state) != []) is stays
        for folder in task_folders(state):
            saved = FinishedBins.load(folder)
            assert saved is not None
            saved.discard()
        task.ledger.path.unlink()


@pytest.mark.parametrize(("code", "stays"), [(65, True), (66, True), (69, True), (76, False), (79, False)])
def test_a_task_that_is_done_stays_done_if_another_one_has_a_bad_input(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, code: int, stays: bool
) -> None:
    kinds = (InputChangedError, InputMissingError, PeerGoneError, PeerProtocolError, AnsweredTwiceError)
    (error,) = (kind() for kind in kinds if kind.code == code)
    task = Task(pair, monkeypatch)
    checkpoint, _ = task.begin()
    checkpoint.conclude({"output_sha256": None})
    checkpoint.end(error)
    found = task.begin()[1]
    assert (found is not None) is stays
    assert found is None or found.complete


def test_never_saves_no_bins_and_records_no_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(pair, monkeypatch)
    checkpoint, _ = task.begin(Mode.NEVER)
    checkpoint.answering(0, 0)
    checkpoint.end(LOST)
    assert task_folders(pair.folder / "state") == []
    assert task.ledger.answers(SID.hex(), LISTENER) == {}
