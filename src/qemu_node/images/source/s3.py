"""An object of an S3 bucket as a file behind http(s): pure.

Owns where a bucket is. Does not own the signature (`sigv4`) nor whose keys sign (`credentials`).
"""

import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from qemu_node.images.source.credentials import Credential, S3Access
from qemu_node.images.source.httpfile import HttpFile
from qemu_node.images.source.name import S3Source
from qemu_node.images.source.sigv4 import Place, s3_headers

_GLOBAL_ENDPOINT = "s3.amazonaws.com"


def s3_file(
    source: S3Source, credential: Credential | None, *, clock: Callable[[], float] = time.time
) -> HttpFile:
    """Return how the object `source` is asked for; without keys it is asked for unsigned."""
    access = None if credential is None else credential.s3
    url = object_url(source, access)
    if access is None or access.secret_key is None:
        return HttpFile(url=url, shown=source.shown)

    def sign(method: str, url: str) -> Mapping[str, str]:
        keys = access.keys()
        assert keys is not None
        return s3_headers(method, url, keys, Place(region=access.region), clock())

    return HttpFile(url=url, shown=source.shown, sign=sign)


def object_url(source: S3Source, access: S3Access | None) -> str:
    """Return the object's URL, its key encoded as the signature wants it.

    At Amazon the bucket is part of the host's name; one with a dot is not, because the certificate
    is for one label. An endpoint of the operator's has the bucket in the path, as all servers
    understand.
    """
    key = quote(source.object_key, safe="/")
    if access is not None and access.endpoint:
        return f"{access.endpoint}/{source.bucket}/{key}"
    # The endpoint without a region leads to buckets of every region that need no signature.
    host = _GLOBAL_ENDPOINT if access is None else f"s3.{access.region}.amazonaws.com"
    if "." in source.bucket:
        return f"https://{host}/{source.bucket}/{key}"
    return f"https://{source.bucket}.{host}/{key}"
