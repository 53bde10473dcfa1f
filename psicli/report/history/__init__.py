"""What past runs tell.

records     the ledger as people read it
series      the runs of a task, one after another
bands       the usual range of each measure, and how far a run is from it
text        the history of tasks as people read it
"""
