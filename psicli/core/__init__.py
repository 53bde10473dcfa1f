"""Below everything: errors, signals, failpoints, formats, shares of memory, stages and traces."""
