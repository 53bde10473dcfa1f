"""Files on this machine, in object stores and on web servers: found, read without a change in between, and written.

listing   finds the files that a file, a folder or a pattern names
reading   opens a file, reads it by ranges, and notices when it changes
remote    what object stores need: the only module that imports pyarrow.fs
"""
