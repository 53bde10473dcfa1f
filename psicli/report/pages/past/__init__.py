"""Pages about many runs.

curves      how a number changed from run to run, as inline SVG
history     the page of the past runs of each job
overview    the page of `psicli ui`: what runs now, and links to past runs
"""
