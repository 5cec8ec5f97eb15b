# A web server in VLAN 120 whose service in Nomad has the guest's own address.
#
#   nomad job run -var image=/path/to/debian-13.qcow2 examples/service.nomad.hcl
#   nomad service info web
#
# Needs a node with a bridge, a rule for VLAN 120 in its node.toml, as for vlan.nomad.hcl, and a DHCP
# server in the VLAN. See docs/network.md.

variable "image" {
  type        = string
  default     = "/srv/images/debian-13.qcow2"
  description = "A Debian image with cloud-init and qemu-guest-agent."
}

job "service" {
  type = "service"

  group "web" {
    count = 2

    network {
      # Nomad also takes a port of the node for this label, and nobody uses it. What it advertises is
      # the guest's port, `to`.
      port "http" { to = 80 }
      port "health" {}
    }

    task "web" {
      driver         = "vm"
      kill_timeout   = "30s"
      shutdown_delay = "2s" # between the end of the service in Nomad and that of the VM

      # A service of the task: Nomad takes address_mode "driver" of no other.
      service {
        name         = "web"
        provider     = "nomad"
        port         = "http"
        address_mode = "driver"

        # The client makes it from the node, which does not reach into the VLAN: the driver answers
        # for the guest's agent.
        check {
          type     = "http"
          port     = "health"
          path     = "/"
          interval = "10s"
          timeout  = "5s"
        }
      }

      config {
        image       = var.image
        health_port = "health"

        # The start waits this long for the guest to tell an address.
        network {
          vlan      = 120
          advertise = "3m"
        }
      }

      template {
        destination = "local/config-drive/openstack/latest/user_data"
        change_mode = "noop"
        data        = <<-EOT
          #cloud-config
          hostname: web-{{ env "NOMAD_ALLOC_INDEX" }}
          runcmd:
            - mkdir -p /srv/www
            - hostname > /srv/www/index.html
            - systemd-run --unit=web python3 -m http.server --directory /srv/www 80
        EOT
      }

      resources {
        cpu    = 500
        memory = 768
      }
    }
  }
}
