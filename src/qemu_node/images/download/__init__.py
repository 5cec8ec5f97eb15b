"""One download, from a source to its place in the store."""
