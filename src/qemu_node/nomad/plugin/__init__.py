"""go-plugin's contract: handshake, gRPC server, log, schemas. Knows no VM."""
