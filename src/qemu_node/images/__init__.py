"""Images and what is made of them: downloads, the cache, header checks, overlays, config drives.

Who does what: `source` and `checksum` understand the job's words; `fetch` speaks HTTP; `partial`
and `store` are the files of the cache; `localfile` opens images of this host; `pull` decides, and
brings one image up to date; `cache` is what others use. `eviction` says which images go, `litter`
removes what nobody wants, `base` ties an image to a VM, `keeper` joins them; `prefetch` fetches
before anybody asks. `qcow2` and `imagefile` judge an image
before any other program opens it; `overlay` and `configdrive` write what belongs to one VM.
"""
