"""One run of a job, and each of its tasks from its input to its output."""
