"""Several parties or many jobs on one machine: the simulation of a job, and batches."""
