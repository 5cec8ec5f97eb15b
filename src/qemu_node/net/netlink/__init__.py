"""Messages to and from the kernel: rtnetlink, traffic control, notices of changes."""
