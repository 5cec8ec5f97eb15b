# Two VMs of Debian's official cloud image, fetched and verified by the node: `ssh` in with your key.
#
#   qemu-node run examples/debian-cloud.nomad.hcl -var ssh_key="$(cat ~/.ssh/id_ed25519.pub)"
#   nomad job run -var ssh_key="$(cat ~/.ssh/id_ed25519.pub)" examples/debian-cloud.nomad.hcl
#
# The image is downloaded once, whatever the count, and revalidated before later starts.

variable "mirror" {
  type    = string
  default = "https://cloud.debian.org/images/cloud/trixie/latest"
}

variable "ssh_key" {
  type        = string
  default     = ""
  description = "A public key for the user debian."
}

variable "count" {
  type    = number
  default = 2
}

job "debian-cloud" {
  type = "service"

  group "debian" {
    count = var.count

    network {
      port "ssh" { to = 22 }
    }

    task "debian" {
      driver       = "vm"
      kill_timeout = "30s"

      config {
        image     = "${var.mirror}/debian-13-genericcloud-amd64.qcow2"
        checksum  = "${var.mirror}/SHA512SUMS"
        disk_size = "10G"

        network {
          mode = "user"
        }
        ports {
          ssh = 22
        }
      }

      template {
        destination = "local/config-drive/openstack/latest/user_data"
        change_mode = "noop"
        data        = <<-EOT
          #cloud-config
          hostname: debian-{{ env "NOMAD_ALLOC_INDEX" }}
          ssh_authorized_keys:
            - "${var.ssh_key}"
          # Debian's image comes without the guest agent.
          packages:
            - qemu-guest-agent
        EOT
      }

      resources {
        cpu    = 1000
        memory = 768
      }
    }
  }
}
