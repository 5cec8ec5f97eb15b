"""The nftables tables that stop spoofed frames, as text and as they are in the kernel."""
