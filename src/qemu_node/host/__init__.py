"""The only code that starts a process or writes a host file."""
