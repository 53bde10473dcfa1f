"""Two DAGs of Apache Airflow 3 that run a psicli job every night: by the command line, and by Python.

PSICLI_JOB names the job file of this party. The other party starts its own run at about the same time, from its own
Airflow, from cron, or however it likes; the one that comes first waits.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

JOB = os.environ.get("PSICLI_JOB", "/etc/psicli/job.yaml")
# The other party could not be reached, or something was busy: a later run may succeed.
MAY_PASS = {69, 75}

EVERY_NIGHT = {
    "schedule": "0 2 * * *",
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    # A job has one port: two runs of it at the same time would be in each other's way.
    "max_active_runs": 1,
    "default_args": {"retries": 3, "retry_delay": timedelta(minutes=10)},
    "tags": ["psicli"],
}


@dag(dag_id="psicli_by_command", **EVERY_NIGHT)
def psicli_by_command():
    """Run the job file as it is: rows go from its input_path to its output_path."""
    BashOperator(
        task_id="run",
        # --set fills in ${DATE} in the paths of the job file.
        bash_command='psicli run --config "$PSICLI_JOB" --set "DATE=$DATE"',
        env={"PSICLI_JOB": JOB, "DATE": "{{ ds | default('2026-01-01', true) }}"},
        append_env=True,
    )


@dag(dag_id="psicli_by_python", **EVERY_NIGHT)
def psicli_by_python():
    """Run the same job on rows that a task before it has made."""

    @task
    def run() -> dict[str, int]:
        import pandas

        import psicli

        day = get_current_context().get("ds") or "2026-01-01"
        # Or the result of a query.
        customers = pandas.DataFrame({"id": ["c-001", "c-002", "c-003"]})
        try:
            job = psicli.load_job(JOB, variables={"DATE": day})
            report = psicli.run(job, {"customers": customers})
        except psicli.RunError as error:
            if error.code in MAY_PASS:
                raise
            # Airflow does not try again.
            raise AirflowFailException(f"{error.message}\n{error.hint}") from None
        # Counts only: what a task returns is in the database of Airflow, which many can read.
        return {result.name: result.output_rows for result in report if result.has_rows}

    run()


by_command = psicli_by_command()
by_python = psicli_by_python()
