# Makes the node a client: it runs VMs. Remove it on nodes that are servers only.

client {
  enabled = true

  # Nodes without server.hcl name the servers here.
  # server_join {
  #   retry_join = ["node1.example.net", "node2.example.net", "node3.example.net"]
  # }

  # The limit of every job's `kill_timeout`. Nomad's default, 30 s, is too short for most guests: one that installs
  # updates while it shuts down takes minutes.
  max_kill_timeout = "15m"

  # More than the node has VMs, running and ended. With more allocations than this (Nomad's default is 50) each ended one
  # is removed at once, with its logs.
  gc_max_allocs = 1000
  # Logs of ended tasks go when /data is so full. Images and VMs have limits of their own (node.toml).
  gc_disk_usage_threshold = 80

  # What no job gets: for the system, Nomad, the driver with hundreds of VMs, and QEMU's start.
  reserved {
    cpu    = 500
    memory = 1024
    disk   = 4096
  }

  # Ports of the node for VMs in user mode and for health checks. The firewall of the image has the same range open.
  min_dynamic_port = 20000
  max_dynamic_port = 32000

  options = {
    # No clouds, no Consul, no Vault: the agent would ask for them, 20 s at each start.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault,cni"
    # Not in the image. `qemu` is Nomad's own driver: jobs could start VMs by it without limits, users of their own and
    # VLANs.
    "driver.denylist" = "docker,java,qemu,exec"
  }
}

# The driver for VMs, settings in node.toml.
plugin "vm" {}

# raw_exec runs a job's program on the node itself, as root and outside of any VM: whoever may submit a job is root on this
# node. It is there for maintenance, such as a system job that installs monitoring. With ACLs give `submit-job` to people
# you trust with that, or set it to false.
plugin "raw_exec" {
  config {
    enabled = true
  }
}
