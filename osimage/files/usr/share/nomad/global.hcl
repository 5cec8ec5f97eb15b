# What every node of the cluster has, server or client. Copy these files to /data/config and change them there:
#
#   global.hcl     this file; every node
#   server.hcl     makes the node a server: it keeps the cluster's state. One, three or five nodes have it
#   client.hcl     makes the node a client: it runs VMs
#   security.hcl   TLS and ACLs; without it anybody who reaches port 4646 is root on every client
#   node.toml      the settings of the driver for VMs (no file of Nomad's)
#
# As they are: one node that is both. `qemu-node config check` says what is wrong. docs/cluster.md has more nodes.

# A region is one cluster of servers; datacenters are names that jobs choose nodes by.
region     = "global"
datacenter = "dc1"

# Without a name of its own here a node has its host name, by DHCP (option 12) or /oem. Servers need different ones.
# name = "node1"

# The only place that an upgrade of the system leaves as it is.
data_dir   = "/data/nomad"
plugin_dir = "/usr/lib/nomad/plugins"

# The image has its version of Nomad; it is replaced with the image.
disable_update_check = true

# Off, so that a restart of the agent neither takes a server out of the cluster nor drains a client. A shutdown ends the
# VMs by qemu-node-vms.service, which needs no Nomad; to have them move before: `qemu-node os drain`.
leave_on_interrupt = false
leave_on_terminate = false

telemetry {
  # Without it Nomad asks no driver for CPU and memory, and shows none.
  publish_allocation_metrics = true
  publish_node_metrics       = true
  # GET /v1/metrics?format=prometheus
  prometheus_metrics = true
}

# There is no Consul on the node; without this the agent looks for one again and again.
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
