"""What every other room uses: errors, signals, failpoints, file formats, stage timings and traces."""
