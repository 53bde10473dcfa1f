"""Tasks with per_file: each file is a task, and runs if the other party has a file of the same name.

expand     makes a task of each file, when a run starts
unpaired   names the files that only one party has, once the two parties have met
"""
