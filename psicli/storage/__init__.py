"""What is kept on disk: the state folder, locks, the ledger, files that appear whole, partitions that did not fit."""
