"""Several jobs on one machine."""
