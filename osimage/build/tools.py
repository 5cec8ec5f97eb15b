"""Programs of the tools' root that need this machine's network: skopeo."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from osimage.build.namespace import environment, run_in

_TIMEOUT_S = 3600.0
# As this machine reaches registries: names, whom it trusts, and who its user is there.
_OF_HOST = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")
_LOGINS = (
    Path.home() / ".config/containers/auth.json",
    Path.home() / ".docker/config.json",
)


def run_skopeo(
    tools: Path, arguments: Sequence[str], *, binds: Mapping[Path, str] | None = None
) -> bytes:
    """Run skopeo with this machine's network and logins, and return what it printed.

    Raises:
        ProcessError: it failed.
    """
    env = {
        name: value
        for name, value in environment().items()
        if name.endswith("_proxy") or name.startswith("SSL_CERT_")
    }
    seen = dict(binds or {})
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if name in env:
            seen[Path(env[name]).resolve()] = f"/run/{name}"
            env[name] = f"/run/{name}"
    login = next((path for path in _LOGINS if path.is_file()), None)
    if login is not None:
        seen[login.parent] = "/run/login"
        env["REGISTRY_AUTH_FILE"] = f"/run/login/{login.name}"
    return run_in(
        tools, ["skopeo", "--insecure-policy", *arguments], binds=seen, files=_OF_HOST,
        env=env, timeout_s=_TIMEOUT_S,
    ).stdout  # fmt: skip
