from pathlib import Path

import pytest

from qemu_node.nodeos.agent.facts import open_keys


@pytest.mark.parametrize(
    ("text", "mode", "is_found"),
    [
        ('server {\n  encrypt = "c2VjcmV0"\n}\n', 0o644, True),
        ('{"server": {\n "encrypt": "c2VjcmV0"}}', 0o640, True),
        ('server {\n  encrypt = "c2VjcmV0"\n}\n', 0o600, False),
        ('# server {\n#   encrypt = "c2VjcmV0"\n', 0o644, False),
        ('server {\n  encrypt = ""\n}\n', 0o644, False),
    ],
)
def test_a_gossip_key_that_every_user_of_the_node_can_read_is_found(
    tmp_path: Path, text: str, mode: int, *, is_found: bool
) -> None:
    """A copy of the sample has mode 0644, and each VM's QEMU is a user of the node."""
    path = tmp_path / "security.hcl"
    path.write_text(text)
    path.chmod(mode)
    assert open_keys(tmp_path, None) == ([str(path)] if is_found else [])
