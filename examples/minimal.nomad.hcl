# The least that makes a VM: `qemu-node run examples/minimal.nomad.hcl -var image=/path/to/disk.qcow2`
variable "image" {
  type = string
}

job "minimal" {
  group "vm" {
    task "vm" {
      driver = "vm"

      config {
        image = var.image
      }

      resources {
        memory = 512
      }
    }
  }
}
