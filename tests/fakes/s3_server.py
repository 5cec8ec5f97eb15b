"""An S3 server on loopback that checks signatures by itself.

What is signed is worked out here from the bytes of the request, as the documents of AWS say
("Create a signed AWS API request"), with nothing of the code that signs.
"""

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from fakes.http_peer import HttpPeer, PeerRequest, Reply

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 "
    r"Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_MAX_SKEW = timedelta(minutes=15)


class S3Server(HttpPeer):
    """Serves objects by path, `/bucket/key`, to clients that sign."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        """By decoded path."""
        self.keys: dict[str, str] = {}
        """Access key → secret key; without any, everything is public."""
        self.sessions: dict[str, str] = {}
        """Access key → the session token that must come with it."""
        self.region = "us-east-1"
        self.skew = timedelta()
        """How much its clock is ahead of ours."""

    def answer(self, request: PeerRequest) -> Reply:
        if self.keys:
            problem = self._problem(request)
            if problem is not None:
                return Reply(403, f"<Error><Code>{problem}</Code></Error>".encode())
        body = self.objects.get(unquote(request.path))
        if body is None:
            return Reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return Reply(body=body, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _problem(self, request: PeerRequest) -> str | None:
        match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            return "AccessDenied"
        secret = self.keys.get(match["key"])
        if secret is None:
            return "InvalidAccessKeyId"
        if match["region"] != self.region:
            return "AuthorizationHeaderMalformed"
        if request.headers.get("x-amz-security-token") != self.sessions.get(match["key"]):
            return "InvalidToken"
        date = request.headers["x-amz-date"]
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(datetime.now(tz=UTC) + self.skew - signed_at) > _MAX_SKEW or not date.startswith(
            match["day"]
        ):
            return "RequestTimeTooSkewed"
        names = match["names"].split(";")
        must_be = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
        if names != sorted(names) or not must_be <= set(names):
            return "AccessDenied"
        if self._signature(request, names, match, secret) != match["signature"]:
            return "SignatureDoesNotMatch"
        return None

    @staticmethod
    def _signature(
        request: PeerRequest, names: list[str], match: re.Match[str], secret: str
    ) -> str:
        path, _, query = request.target.partition("?")
        canonical = f"{request.method}\n{path}\n{'&'.join(sorted(query.split('&')))}\n"
        for name in names:
            canonical += f"{name}:{request.headers[name].strip()}\n"
        canonical += f"\n{';'.join(names)}\n{request.headers['x-amz-content-sha256']}"
        scope = f"{match['day']}/{match['region']}/s3/aws4_request"
        key = b"AWS4" + secret.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
        return hmac.digest(key, to_sign.encode(), "sha256").hex()
