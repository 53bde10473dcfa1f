"""Many tasks over one link: the agreement, and whose turn it is."""
