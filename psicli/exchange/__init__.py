"""What a bin's computing takes: a worker and its lists, and the steps of a task's bins one after another."""
