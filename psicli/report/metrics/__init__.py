"""The result of a run or a batch as metrics for Prometheus, in a file for node_exporter's textfile collector.

families    gauges by name, and their text
run         what a run and its tasks become
batch       what a batch and its jobs become
file        the file, which every run replaces

Metrics are made from the facts that `--json` prints alone. So a metric exists only where this party knows the fact: a
party that does not learn the result has none that depends on it, and with policy.whole_percent a share is all there is.
Only `file` is imported with the command line; the others import prometheus_client.
"""
