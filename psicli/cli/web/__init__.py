"""The page on this machine that shows running jobs and past runs.

now       what runs on this machine, as `psicli status` shows it, too
door      who may see the page: the token, the session, and what a request must look like
server    the server: one request after another, in a few threads
pages     what each address shows

Nothing in here changes anything: the page only shows.
"""
