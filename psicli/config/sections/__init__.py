"""The models of sections of a job file, and the checks of their fields against others."""
