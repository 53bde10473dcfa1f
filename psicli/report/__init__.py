"""What psicli shows to people and programs: reports, tables, log and progress, traces."""
