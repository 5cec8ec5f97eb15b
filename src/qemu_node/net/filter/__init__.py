"""The nftables tables that keep guests from lying, as text and as they are in the kernel."""
