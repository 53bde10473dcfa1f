"""A session: the opening agreement of two parties, and the tasks they run in order over one connection."""
