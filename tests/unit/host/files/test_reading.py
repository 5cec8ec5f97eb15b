from pathlib import Path

from qemu_node.host.files.reading import read_or_empty


def test_a_files_text_is_read_without_its_line_break(tmp_path: Path) -> None:
    (tmp_path / "mtu").write_bytes(b"1500\n")
    (tmp_path / "label").write_bytes(b" \xff\n")
    assert read_or_empty(tmp_path / "mtu") == "1500"
    assert read_or_empty(tmp_path / "label") == "�"


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_or_empty(tmp_path / "none") == ""
    assert read_or_empty(tmp_path) == ""
