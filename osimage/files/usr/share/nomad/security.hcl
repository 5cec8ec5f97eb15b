# TLS and ACLs. Remove the file for a cluster without any security, in a network where nobody else is.

acl {
  enabled = true
}

tls {
  http = true
  rpc  = true

  # A single node makes these files itself before Nomad's first start. For more nodes: docs/cluster.md.
  ca_file   = "/data/config/tls/ca.pem"
  cert_file = "/data/config/tls/node.pem"
  key_file  = "/data/config/tls/node-key.pem"

  # Only a certificate for `server.<region>.nomad` makes a server: a client's cannot read the cluster's secrets.
  verify_server_hostname = true
  # People and browsers show a token, not a certificate.
  verify_https_client = false
}

# Servers encrypt what they tell each other over port 4648 with a key that all of them have. A single server tells nobody
# anything. For more servers: make one with `nomad operator gossip keyring generate` before the first start.
# server {
#   encrypt = ""
# }
