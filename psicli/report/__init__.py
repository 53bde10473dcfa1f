"""What a run tells people and programs: text, JSON, a progress bar, a trace."""
