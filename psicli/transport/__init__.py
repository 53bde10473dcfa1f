"""One link to the peer: gRPC, TLS and certificates; it knows no task."""

import os

# gRPC's C core writes to stderr by itself and installs fork handlers; both before it is imported.
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
