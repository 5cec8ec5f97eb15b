"""QMP, QEMU's control socket: calls with time limits, typed replies and events.

Owns the conversation with one QEMU. Does not own QEMU's process, nor what a VM's end means for its
task. `connection.QmpConnection` is the entry point.
"""
