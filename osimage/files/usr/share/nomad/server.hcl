# Makes the node a server. Remove it on nodes that are clients only, and name the servers in client.hcl.

server {
  enabled = true

  # How many servers elect their first leader together: 1, 3 or 5. The same on each of them.
  bootstrap_expect = 1

  # The servers of the cluster, more than one; the same list on each of them.
  # server_join {
  #   retry_join = ["node1.example.net", "node2.example.net", "node3.example.net"]
  # }

  # For a new cluster only; later: `nomad operator scheduler set-config`.
  default_scheduler_config {
    # `memory_max` of a job counts. Without it a VM never gets more than `memory`.
    memory_oversubscription_enabled = true
  }
}
