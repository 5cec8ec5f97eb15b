"""The root file system: `steps` is the order of what the other modules do."""
