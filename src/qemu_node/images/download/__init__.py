"""One download, from a source to its place in the store, and the decision whether it is needed."""
