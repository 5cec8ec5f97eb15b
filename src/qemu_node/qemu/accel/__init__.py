"""The accelerator that runs guests on this host, and the proof that it does."""
