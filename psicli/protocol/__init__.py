"""The protocol without I/O: messages, streams, bins, and both roles of a task as state machines."""
