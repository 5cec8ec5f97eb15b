"""What a Nomad server and client do before StartTask: allocations, their directories and tasks.

`placement` gives the ports and cores, `allocdir` makes the directories, `taskconfig` what the
driver is told.
"""
