"""The agent's side of the plugin protocol, for `qemu-node run` and for tests.

`pluginclient` starts a plugin, `calls` makes its RPCs, `pipe` reads what it prints. `cty` converts
the values of HCL, `encoding` turns them into a plugin's `config` block.
"""
