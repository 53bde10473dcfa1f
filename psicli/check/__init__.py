"""`psicli check` and `psicli bench`: whether a job can run here, and how fast."""
