"""The commands of the first steps: a first job file, and a look at what keys become."""
