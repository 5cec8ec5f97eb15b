"""A running VM: watched, measured, stopped, ended.

`machine` learns what happens, `transitions` decides what follows, `control` reaches QEMU. Which
ends there are, and their reasons: `vm.record.outcome`.
"""
