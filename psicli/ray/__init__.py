"""The party's own Ray cluster: connect to it, check its nodes, and let workers on them do the bins.

Only this package imports the library ray, and only in a run with `pipeline.workers: {ray: …}`; it is an extra.
"""
