from pathlib import Path

import pytest

from osimage.build import tools


def test_skopeo_sees_the_certificates_that_this_machine_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their paths are not in the root that it runs in."""
    authority = tmp_path / "ca.pem"
    authority.touch()
    asked: dict[str, object] = {}

    class Done:
        stdout = b""

    def run_in(_root: Path, _argv: object, **more: object) -> Done:
        asked.update(more)
        return Done()

    monkeypatch.setattr(tools, "run_in", run_in)
    monkeypatch.setattr(tools, "_LOGINS", ())
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    tools.run_skopeo(tmp_path, ["inspect"])
    assert asked["binds"] == {authority: "/run/SSL_CERT_FILE"}
    assert asked["env"]["SSL_CERT_FILE"] == "/run/SSL_CERT_FILE"  # type: ignore[index]
