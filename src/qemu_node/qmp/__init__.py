"""QMP: QEMU's control socket, as bounded calls, typed replies and typed events.

Owns the conversation with one QEMU. Does not own the process behind the socket, nor what a VM's end
means for its task. `connection.QmpConnection` is where to begin.
"""
