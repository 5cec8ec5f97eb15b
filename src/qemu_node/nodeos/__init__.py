"""What a node does about its own operating system, where that is the image of `osimage`.

`setup/` installs it, `upgrade/` and `rollout/` replace it, `snapshots/` decides what is kept and
booted, `health` whether it stays, `rollback` goes back, `ledger/` remembers. `settings/` outlive
images. `uplink/` is the node's network, `agent/` its Nomad, `shutdown/` its drain, `issue` its
console. `paths` is where things are, `release` which image this is, `boot` how it was booted.

Nothing of the driver imports this: a VM does not depend on how its node is installed.
"""
