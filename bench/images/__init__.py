"""The goals of the image cache, and the server that they download from."""
