"""psicli from Python: jobs whose inputs and results are data frames.

A run is a process of its own, `psicli run`, so that nothing of it stays in the program that calls it: no signal
handler, no limit, no variable, no thread.

    jobs                  loads a job from a file or a dict
    runs                  runs a job
    intersection          makes a job of one task from its arguments, and runs it
    process               the process of a run: its progress, its end, its report
    frames                data frames -> Arrow files, and rows -> data frames of the same types
    report                what a run returns
    errors                the product's errors, with their texts filled in
"""

from psicli.api.errors import RunError
from psicli.api.intersection import intersect
from psicli.api.jobs import Job, load_job
from psicli.api.process import Cancel, Progress
from psicli.api.report import Report, TaskResult
from psicli.api.runs import run

__all__ = ["Cancel", "Job", "Progress", "Report", "RunError", "TaskResult", "intersect", "load_job", "run"]
