"""One run of a job, and each of its tasks from input to output."""
