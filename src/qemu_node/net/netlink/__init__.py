"""What the kernel is asked and tells: rtnetlink, traffic control, notices of changes."""
