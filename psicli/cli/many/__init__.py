"""Commands about many jobs: batch, retry and schedule."""
