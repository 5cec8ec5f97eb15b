"""The operator's settings, node.toml: `node` reads it, the other modules own a section each."""
