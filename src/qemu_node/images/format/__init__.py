"""What is in an image file: formats, headers, compression; and the overlay on top of one."""
