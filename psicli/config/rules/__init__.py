"""Checks of a job file, one module for each subject; `checks` has those of the parties, the tasks and the policy."""
