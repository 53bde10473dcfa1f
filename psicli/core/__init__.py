"""What every other room uses: errors, signals, failpoints, file formats, the memory plan, stage timings and traces."""
