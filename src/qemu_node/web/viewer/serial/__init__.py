"""A guest's serial port, shared: by browsers and by `qemu-node vm console`.

- `serialroutes`: the WebSocket
- `viewers`: one browser on it
- `commandline`: the unix sockets for `qemu-node vm console`
- `hub`: one VM's port and everybody on it; `Hubs` has all of them
- `serialtap`: the connection to QEMU
- `notices`: what viewers are told beside the port's bytes
- `outbox`: what waits for one viewer
- `scrollback`: what somebody who comes later is shown first, pure
- `modes`: how the guest has set the terminal, pure
"""
