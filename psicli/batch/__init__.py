"""Several parties on one machine: the simulation of a job."""
