"""What would keep a job from running, and what it would take."""
