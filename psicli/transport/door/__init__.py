"""The door of a listener: it owns the port and lets through to gRPC only what may become the peer's connection.

gRPC would accept everybody, and keep whom it accepted. The front (`front`) accepts connections in one thread, ends TLS,
and relays octets to gRPC, which listens where only this process can reach it. `admission` decides who is served, who
waits and who must go; `guest` is one connection; `owners` says whose processes are at the ends of a connection within
this machine.
"""
