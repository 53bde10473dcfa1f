"""What a batch does when nobody watches: hooks, pings and schedules."""
