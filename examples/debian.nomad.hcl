# Two Debian 13 VMs under UEFI Secure Boot.
#
#   qemu-node run examples/debian.nomad.hcl -var image=/path/to/debian-13.qcow2
#   nomad job run -var image=/path/to/debian-13.qcow2 examples/debian.nomad.hcl
#
# The image lies in a directory that the node's operator lists under [images] image_paths.

variable "image" {
  type        = string
  default     = "/srv/images/debian-13.qcow2"
  description = "A Debian image with cloud-init and qemu-guest-agent."
}

variable "count" {
  type    = number
  default = 2
}

job "debian" {
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
        image = var.image

        # The group's port `ssh` on the node leads to port 22 of the guest.
        network {
          mode = "user"
        }
        ports {
          ssh = 22
        }

        # `nomad alloc exec` and `qemu-node vm exec` run commands in the guest.
        guest_agent {
          allow_exec = true
        }
      }

      # Files under local/config-drive become the VM's config drive, which cloud-init reads.
      template {
        destination = "local/config-drive/openstack/latest/user_data"
        change_mode = "noop"
        data        = <<-EOT
          #cloud-config
          hostname: debian-{{ env "NOMAD_ALLOC_INDEX" }}
          runcmd:
            - [sh, -c, "mokutil --sb-state > /dev/console 2>&1 || true"]
        EOT
      }

      resources {
        cpu    = 1000
        memory = 768
      }
    }
  }
}
