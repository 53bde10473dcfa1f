"""The page on this machine that shows running jobs and past runs."""
