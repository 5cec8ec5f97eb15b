# VMs in VLANs: two web servers in VLAN 120, apart from each other, and a router between 120 and 130.
#
#   nomad job run -var image=/path/to/debian-13.qcow2 examples/vlan.nomad.hcl
#
# Needs a node with a bridge, and a rule in its node.toml (docs/network.md):
#
#   [network]
#   bridge          = "br0"
#   uplink          = "bond0"
#   management_vlan = 4094
#
#   [[network.policy]]
#   namespaces = ["default"]
#   vlans      = ["120", "130"]
#   trunk      = true

variable "image" {
  type        = string
  default     = "/srv/images/debian-13.qcow2"
  description = "A Debian image with cloud-init and qemu-guest-agent."
}

job "vlan" {
  type = "service"

  group "web" {
    count = 2

    task "web" {
      driver       = "vm"
      kill_timeout = "30s"

      config {
        image = var.image

        # Its frames have no tag in the guest. `isolated`: it reaches the VLAN's router and all that
        # is outside of the node, and no other isolated VM of the node.
        network {
          vlan     = 120
          isolated = true
        }
      }

      resources {
        cpu    = 500
        memory = 768
      }
    }
  }

  group "router" {
    task "router" {
      driver       = "vm"
      kill_timeout = "30s"

      config {
        image = var.image

        # Both VLANs with their tags: eth0.120 and eth0.130 in the guest.
        network {
          trunk = [120, 130]
        }
      }

      template {
        destination = "local/config-drive/openstack/latest/user_data"
        change_mode = "noop"
        data        = <<-EOT
          #cloud-config
          bootcmd:
            - ip link set dev $(ls /sys/class/net | grep '^e' | head -n 1) name eth0 up
            - ip link add link eth0 name eth0.120 up type vlan id 120
            - ip link add link eth0 name eth0.130 up type vlan id 130
            - sysctl -w net.ipv4.ip_forward=1
        EOT
      }

      resources {
        cpu    = 500
        memory = 768
      }
    }
  }
}
