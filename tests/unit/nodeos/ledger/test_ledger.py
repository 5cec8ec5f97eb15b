from pathlib import Path

from qemu_node.nodeos.ledger.history import Event, note_event, read_history
from qemu_node.nodeos.ledger.refusals import Refusal, forgive, read_refused, refuse
from qemu_node.nodeos.paths import NodePaths


def _paths(root: Path) -> NodePaths:
    paths = NodePaths(root)
    paths.oem.mkdir()
    return paths


def test_an_image_is_refused_until_it_is_forgiven(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    refuse(paths, Refusal(digest="sha256:a", tag="v2", reason="first"))
    refuse(paths, Refusal(digest="sha256:a", reason="second"))
    refuse(paths, Refusal(digest="sha256:b"))
    assert [(r.digest, r.reason) for r in read_refused(paths)] == [
        ("sha256:a", "first"),
        ("sha256:b", ""),
    ]
    forgive(paths, ["sha256:a", "sha256:unknown"])
    assert [r.digest for r in read_refused(paths)] == ["sha256:b"]


def test_what_has_no_digest_cannot_be_refused(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    refuse(paths, Refusal(digest=""))
    assert read_refused(paths) == []


def test_a_damaged_line_loses_only_itself(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    refuse(paths, Refusal(digest="sha256:a"))
    paths.refused.write_bytes(b"\0\0\0\n{\n" + paths.refused.read_bytes())
    assert [r.digest for r in read_refused(paths)] == ["sha256:a"]


def test_history_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    paths.own.mkdir()
    line = b'{"at":"x","event":"installed","snapshot":1}\n'
    paths.history.write_bytes(line * 500)
    note_event(paths, Event.CONFIRMED, snapshot=2, tag="v2")
    events = read_history(paths)
    assert len(events) == 500
    assert (events[-1].event, events[-1].snapshot, events[-1].tag) == ("confirmed", 2, "v2")


def test_our_directory_is_closed_to_others(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    note_event(paths, Event.INSTALLED)
    assert paths.own.stat().st_mode & 0o777 == 0o700
    assert paths.history.stat().st_mode & 0o777 == 0o600
