# The task driver `vm` in a Nomad agent of plain Debian: copy this file to /etc/nomad.d.
# If the agent loads other plugins from a plugin_dir of its own, link the driver into it instead,
# `ln -s /usr/lib/nomad/plugins/vm PLUGIN_DIR/`, and remove the line below in the copy.
plugin_dir = "/usr/lib/nomad/plugins"

# Without this block Nomad does not load the plugin.
plugin "vm" {}

client {
  enabled = true

  # The limit of every job's kill_timeout. The default, 30 s, is too short for Windows.
  max_kill_timeout = "10m"

  # More than the node has VMs: with more allocations than this (the default is 50) Nomad removes
  # each ended one at once, with its logs.
  gc_max_allocs = 1000
}

# Without it Nomad asks no driver for CPU and memory.
telemetry {
  publish_allocation_metrics = true
}
