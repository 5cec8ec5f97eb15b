"""`qemu-node image`: manages the image cache."""
