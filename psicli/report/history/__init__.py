"""What past runs tell.

records     the ledger as people read it
series      the runs of a task, one after another
bands       the usual range of each measure, and how far a run is from it
words       what is outside, in words and numbers
table       the history of tasks as a table, as JSON and as CSV
spark       how a measure went, a run a character
"""
