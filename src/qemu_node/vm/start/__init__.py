"""The start of a VM: what is asked for, and the steps to a running QEMU, each with its undo."""
