"""The connection to the peer: gRPC, TLS and certificates. Nothing here knows about tasks."""

import os

# gRPC's C core would write to stderr and install fork handlers; both must be switched off before it is imported.
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
