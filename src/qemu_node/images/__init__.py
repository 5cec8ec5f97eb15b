"""Disk images: downloads, the cache, the checks, and the overlay of a VM.

`cache` is what others use: a job's `image` in, an open, checked file out (`openimage`). `prefetch`
downloads before a job asks, `keeper` lists, pins and removes.
"""
