"""The result of a run or a batch as metrics for Prometheus."""
