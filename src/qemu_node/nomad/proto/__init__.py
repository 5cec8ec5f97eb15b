"""Messages and services of Nomad's plugin protocol and of go-plugin.

The `.proto` files are this project's own, written from the field numbers that Nomad's agent and
go-plugin put on the wire; they are kept compatible with Nomad 1.11.3 and later. Fields that a newer
agent adds are unknown here and harmless. `*_pb2.py` and `*_pb2.pyi` are generated and committed:

    python tools/regenerate_proto.py          # after changing a .proto file
    python tools/regenerate_proto.py --check  # what the test suite does: no difference

- `base.proto`      what every plugin answers: name, configuration schema, configuration
- `driver.proto`    the task driver service
- `hclspec.proto`   how a schema is described
- `structs.proto`   attributes of a node, recoverable errors
- `goplugin.proto`  shutdown, stdio and broker of go-plugin
- `health.proto`    gRPC's health check
- `status.proto`    the details that accompany a gRPC error

`nomad.plugin.rpc` makes handlers and calls of the services' descriptors; there is no `*_pb2_grpc`. Package
and message names matter only in method paths and in RecoverableError's type URL.
"""
