"""A bin of the protocol RR22: its sizes, and its halves as state machines. ePrint 2022/320."""
