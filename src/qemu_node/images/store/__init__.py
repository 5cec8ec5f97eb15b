"""The files of the image cache: images, partial downloads, records, and what is removed."""
