"""What a node writes down about the images of its system, on /oem, where no image replaces it."""
