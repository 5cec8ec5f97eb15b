"""What is made of a tree: ISO, OCI image, lists of its packages, manifest."""
