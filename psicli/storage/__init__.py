"""Files that psicli writes: the state folder, locks, the ledger, atomic outputs, and partitions that exceed memory."""
