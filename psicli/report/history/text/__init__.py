"""The history of tasks as people read it.

words       what is outside its usual range, in words and numbers
table       a line for each task; all numbers as JSON and as CSV
spark       how a measure went, a run a character
"""
