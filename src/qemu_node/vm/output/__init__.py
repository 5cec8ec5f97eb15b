"""What a VM prints: from the serial port and QEMU's stderr to the task's log."""
