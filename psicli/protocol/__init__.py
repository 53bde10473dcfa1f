"""The protocol of a task, without I/O: messages, streams, bins, and the two roles as state machines."""
