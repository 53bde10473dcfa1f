"""One link to the peer: gRPC, TLS, certificates and sockets; it knows no task."""
