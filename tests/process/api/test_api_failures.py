"""What a program gets when a run fails, is cancelled or interrupted, and what is left of it."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pytest
from support.api.sides import Sides
from support.processes.runner import DIALER, LISTENER, processes_below
from support.waiting import DEADLINE, wait_until

import psicli
from psicli.core.errors import ArgumentError, ColumnError, InputMissingError, JobFileError, TaskFilesError
from psicli.core.peer_errors import PeerLostError

FRAME = pandas.DataFrame({"mail": ["a", "b"], "share": [0.5, 1.5]})
TASK: dict[str, Any] = {"name": "people", "keys": {LISTENER: ["mail"], DIALER: ["mail"]}}


def test_a_peer_that_never_comes(sides: Sides) -> None:
    with pytest.raises(PeerLostError, match="bob did not answer within 1 s") as caught:
        sides.intersect(LISTENER, FRAME, timeout=1)
    error = caught.value
    assert isinstance(error, psicli.RunError)
    assert error.code == 69
    assert error.hint.startswith("Check that bob has started psicli, as bob")
    assert error.__notes__ == [f"hint: {error.hint}"]
    assert error.report is not None
    assert [(task.status, task.has_rows) for task in error.report] == [("not started", False)]
    assert error.report.to_dict()["error"]["class"] == "PeerAbsentError"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again).__name__, again.code, str(again), again.hint) == (
        "PeerAbsentError", 69, str(error), error.hint,
    )  # fmt: skip
    assert sides.left() == []


@pytest.mark.more
@pytest.mark.parametrize(
    ("on", "kind", "code", "said"),
    [
        ("mial", InputMissingError, 66, r"inputs\['rows'\]: .*'mial'"),
        ("share", ColumnError, 65, r"inputs\['rows'\]: .*'share'"),
    ],
)
def test_a_bad_key_column_is_named(sides: Sides, on: str, kind: type[Exception], code: int, said: str) -> None:
    # The peer is not there to be told; nobody waits for it long.
    with pytest.raises(kind, match=said) as caught:
        sides.intersect(DIALER, FRAME, on, timeout=1)
    assert isinstance(caught.value, psicli.RunError)
    assert caught.value.code == code
    assert str(sides.state) not in f"{caught.value}{caught.value.hint}{caught.value.report.to_dict()}"


@pytest.mark.parametrize("paths", ["", [], ["in.csv"], 7])
@pytest.mark.parametrize("kind", ["input_path", "output_path"])
def test_paths_of_a_wrong_kind(sides: Sides, kind: str, paths: Any) -> None:
    job = sides.job(LISTENER, {**TASK, kind: paths})
    with pytest.raises(JobFileError, match=kind):
        psicli.load_job(job)


def test_all_mistakes_of_a_dict_at_once(sides: Sides) -> None:
    job = sides.job(LISTENER, {**TASK, "keyform": "email"}, {**TASK, "keys": {"carol": ["x"]}}, polcy={})
    with pytest.raises(JobFileError) as caught:
        psicli.load_job(job)
    lines = str(caught.value).split("\n")
    assert [line.partition(": ")[0] for line in lines] == [
        "tasks[0].keyform", "tasks[1].name", "tasks[1].keys.alice", "tasks[1].keys.carol", "polcy",
    ]  # fmt: skip
    assert "people is the name of another task; give every task its own name" in lines[1]
    assert isinstance(caught.value, psicli.RunError)
    assert caught.value.code == 78
    assert "psicli config schema" in caught.value.hint


def test_the_lines_of_a_file(sides: Sides, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("job: frames\nself_party: alice\nclutser: {}\n")
    with pytest.raises(psicli.RunError) as caught:
        psicli.run(path, {"people": FRAME})
    assert re.findall(r"job\.yaml:(\d+): (\w+): ", str(caught.value)) == [
        ("1", "cluster"), ("1", "tasks"), ("3", "clutser"),
    ]  # fmt: skip
    with pytest.raises(InputMissingError, match="no such job file"):
        psicli.load_job(tmp_path / "none.yaml")


def test_inputs_that_fit_no_task(sides: Sides) -> None:
    job = psicli.load_job(sides.job(LISTENER, TASK))
    assert (job.name, job.party, job.peer, job.tasks) == ("frames", "alice", "bob", ("people",))
    with pytest.raises(ArgumentError, match="inputs: 'peple' is not a task of this job") as caught:
        psicli.run(job, {"peple": FRAME})
    assert caught.value.hint == "Did you mean people?"
    with pytest.raises(TaskFilesError, match="task people: it has no input_path of alice that is a file"):
        psicli.run(job)
    with pytest.raises(TypeError, match=r"inputs\['people'\] is of the type list; give a DataFrame"):
        psicli.run(job, {"people": [1, 2]})
    with pytest.raises(ArgumentError, match="--party: 'carol' is not a party of this job"):
        psicli.load_job(sides.job(LISTENER, TASK), party="carol")
    assert sides.left() == []


def test_values_of_several_types_are_refused_without_showing_them(sides: Sides) -> None:
    frame = pandas.DataFrame({"mail": ["a", "b"], "mixed": ["secret-value", 1]})
    with pytest.raises(ColumnError, match=r"inputs\['rows'\]: the column 'mixed' holds values of different types") as e:
        sides.intersect(LISTENER, frame)
    assert "secret-value" not in "".join(map(str, (e.value, e.value.hint, e.value.__cause__)))
    with pytest.raises(ColumnError, match="two columns have the name 'mail'"):
        sides.intersect(LISTENER, frame.set_axis(["mail", "mail"], axis=1))


def test_a_reader_that_fails_ends_the_call_with_its_own_error(sides: Sides) -> None:
    def batches() -> Any:
        yield pa.record_batch({"mail": ["a"]})
        raise RuntimeError("the query was cancelled")

    reader = pa.RecordBatchReader.from_batches(pa.schema({"mail": pa.string()}), batches())
    with pytest.raises(RuntimeError, match="the query was cancelled"):
        sides.intersect(LISTENER, reader)
    assert sides.left() == []


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["cancel", "callback"])
def test_a_run_that_is_cancelled_ends_with_its_process(sides: Sides, how: str) -> None:
    event = threading.Event()

    def see(progress: psicli.Progress) -> None:
        assert progress.stage == "waiting"
        assert len(processes_below(sides.state)) == 1
        if how == "callback":
            raise ZeroDivisionError
        event.set()

    kind = psicli.RunError if how == "cancel" else ZeroDivisionError
    with pytest.raises(kind) as caught:
        sides.intersect(LISTENER, FRAME, progress=see, cancel=event)
    if isinstance(caught.value, psicli.RunError):
        assert (caught.value.code, str(caught.value)) == (130, "the program that started the run has cancelled it")
    assert processes_below(sides.state) == []
    assert sides.left() == []


WAITER = """
import os, signal, sys
import pyarrow as pa
import psicli
def see(progress):
    if {interrupt}:
        os.kill(os.getpid(), signal.SIGINT)
    sys.stdout.write(progress.stage + "\\n")
    sys.stdout.flush()
psicli.intersect(pa.table({{"mail": ["a"]}}), "mail", party="alice", peer="bob", address="{address}", progress=see)
"""


@pytest.mark.more
def test_an_interrupt_in_a_notebook_ends_the_process_first(sides: Sides) -> None:
    program = WAITER.format(interrupt=True, address=sides.address)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert "KeyboardInterrupt" in done.stderr
    assert "RunError" not in done.stderr
    assert processes_below(sides.state) == []
    assert sides.left() == []


@pytest.mark.more
def test_a_killed_program_takes_its_run_along(sides: Sides) -> None:
    """What it leaves is removed by the next run."""
    program = WAITER.format(interrupt=False, address=sides.address)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        assert len(processes_below(sides.state)) == 1
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: processes_below(sides.state) == [], "the process of the run has ended")
    assert len(sides.left()) == 1
    with pytest.raises(PeerLostError):
        sides.intersect(LISTENER, FRAME, timeout=1)
    assert sides.left() == []
