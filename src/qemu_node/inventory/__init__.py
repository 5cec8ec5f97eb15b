"""What can be known and done about VMs from outside their driver.

Shared by the command line and the daemon; needs no driver and no Nomad.
"""
