"""`psicli init`: looks into the files of a first job, proposes its keys, and writes the job files of both parties.

looks       reads the first rows of a file, and tells what each column holds
names       what the name of a column says
forms       the form that two key columns need
propose     which columns are the keys
plan        everything that the job files will say
render      a job file from its template
files       writes the job files and the certificates: all or none
"""
