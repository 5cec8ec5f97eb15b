"""What QEMU is told and how it is started: specification, command line, firmware, process."""
