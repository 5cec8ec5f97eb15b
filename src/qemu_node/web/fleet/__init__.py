"""Which VMs there are, and how they are.

- `fleet`: all VMs of this node, the one object that the console's parts ask
- `board`: their present state, and telling whoever follows it
- `livevm`: one that runs
- `follow`: which have changed, by inotify
- `guests`: what guests say of themselves
- `monitors`: connections to QEMU
- `views`: from what is known of a VM to what is shown, pure
- `ends`: how VMs ended, pure
- `model`: the types and their difference, pure
"""
