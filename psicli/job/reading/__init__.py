"""The reading of a task's input, which begins while the run still waits for its peer."""
