import json
import os
from pathlib import Path

import pytest
from fakes.cached_images import URL, fill, images, start

from qemu_node.cli.main import main
from qemu_node.errors import MissingPartError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage
from qemu_node.images.store.store import ImageStore

Output = pytest.CaptureFixture[str]


def said(capsys: Output) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_list_shows_sizes_users_last_use_state_and_origin(
    store: ImageStore, capsys: Output
) -> None:
    record = fill(store)
    start(store, record)
    assert main(["image", "pin", "debian.raw"]) == 0
    assert capsys.readouterr().out == "pinned debian.raw\n"
    assert main(["image", "list"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    titles = ["IMAGE", "DIGEST", "FORMAT", "SIZE", "DISK", "VMS", "USED", "STATE", "ORIGIN"]
    assert header.split() == titles
    digest = record.sha256[:12]
    assert line.split() == ["debian.raw", digest, "raw", "2K", "2K", "1", "now", "pinned", URL]


def test_list_gives_each_source_of_the_same_bytes_a_line(store: ImageStore, capsys: Output) -> None:
    fill(store)
    fill(store, "https://b.example/mirror.raw")
    assert main(["image", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [URL, "https://b.example/mirror.raw"]


def test_outdated_image_is_listed_as_long_as_a_vm_uses_it(
    store: ImageStore, capsys: Output
) -> None:
    old = fill(store)
    start(store, old)
    fill(store, content=b"new" * 1024)
    assert main(["image", "list"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split() == [old.sha256[:12], old.sha256[:12], "raw", "2K", "-", "1", "now",
                            "outdated", "-"]  # fmt: skip


def test_image_that_a_checksum_names_is_listed_as_an_earlier_one(
    store: ImageStore, capsys: Output
) -> None:
    old = fill(store)
    [key] = store.known_sources()
    store.update(key, lambda record: record.with_version(old.sha256, by_digest=True))
    fill(store, content=b"new" * 1024)
    assert main(["image", "list"]) == 0
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert (last[0], last[1], last[-2:]) == ("debian.raw", old.sha256[:12], ["earlier", URL])
    assert main(["image", "show", old.sha256[:12]]) == 0
    assert f"earlier of  {URL}" in capsys.readouterr().out
    assert main(["image", "list", "--json"]) == 0
    assert [image["earlier_of"] for image in said(capsys)] == [[], [URL]]


def test_empty_cache_says_so_and_is_empty_json(root: Path, capsys: Output) -> None:
    for shown in ("list", "verify"):
        assert main(["image", shown]) == 0
        assert "`qemu-node image pull URL`" in capsys.readouterr().err
    for command in (["list"], ["gc"], ["gc", "--dry-run"], ["verify"]):
        assert main(["image", *command, "--json"]) == 0
        assert said(capsys) == []
    assert not root.exists()


def test_json_has_bytes_digest_users_and_sources(store: ImageStore, capsys: Output) -> None:
    record = fill(store)
    start(store, record)
    assert main(["image", "list", "--json"]) == 0
    [listed] = said(capsys)
    assert listed["digest"] == f"sha256:{record.sha256}"
    assert listed["size_bytes"] == 2048
    assert listed["vms"] == ["web-0123456789ab"]
    assert isinstance(listed["sources"], list)
    assert listed["sources"][0]["origin"] == URL
    assert main(["image", "show", record.sha256[:8], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed


def test_show_names_file_and_vms(store: ImageStore, capsys: Output) -> None:
    record = fill(store)
    start(store, record)
    assert main(["image", "show", "debian.raw"]) == 0
    shown = capsys.readouterr().out
    assert str(store.blob_path(record)) in shown
    assert "web-0123456789ab" in shown


@pytest.mark.parametrize("command", [["list"], ["rm", "x"], ["gc"], ["pin", "x"]])
def test_cache_that_may_not_be_used_is_not_shown_as_empty(
    store: ImageStore, capsys: Output, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    fill(store)
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    assert main(["image", *command]) == 1
    assert capsys.readouterr().err.splitlines()[1].startswith(" hint: run this as root (`sudo ")


def test_rm_refuses_an_image_in_use_in_one_line_with_a_hint(
    store: ImageStore, capsys: Output
) -> None:
    start(store, fill(store))
    assert main(["image", "rm", "debian.raw"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert "in use by web-0123456789ab" in error
    assert "--force" in hint
    assert main(["image", "rm", "--force", "debian.raw"]) == 0
    assert images(store) == []


def test_rm_does_nothing_if_one_of_the_names_is_wrong(store: ImageStore) -> None:
    fill(store)
    assert main(["image", "rm", "debian.raw", "absent"]) == 1
    assert len(images(store)) == 1


def test_gc_removes_what_the_driver_would_and_all_on_request(
    store: ImageStore, capsys: Output
) -> None:
    old = fill(store)
    fill(store, content=b"new" * 1024)
    assert main(["image", "gc", "--dry-run"]) == 0
    assert old.sha256[:12] in capsys.readouterr().out
    assert len(images(store)) == 2
    assert main(["image", "gc", "--json"]) == 0
    assert [one["reason"] for one in said(capsys)] == ["outdated"]
    assert main(["image", "gc", "--all"]) == 0
    assert capsys.readouterr().out.endswith("unused\n")
    assert images(store) == []


def test_unpin_lets_go(store: ImageStore, capsys: Output) -> None:
    fill(store)
    assert main(["image", "pin", "debian.raw", "--json"]) == 0
    assert said(capsys)[0]["pinned"] is True
    assert main(["image", "rm", "debian.raw"]) == 1
    assert main(["image", "unpin", "debian.raw", "--json"]) == 0
    assert said(capsys)[0]["pinned"] is False
    assert main(["image", "rm", "debian.raw", "--json"]) == 0


def test_verify_names_the_damaged_image_and_fails(store: ImageStore, capsys: Output) -> None:
    fill(store)
    path = store.blob_path(fill(store, "https://a.example/bad.raw", b"good" * 512))
    path.chmod(0o644)
    path.write_bytes(b"evil" * 512)
    assert main(["image", "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bad.raw", "debian.raw"]
    assert "content has changed" in lines[0]
    assert lines[1].endswith("ok")
    assert main(["image", "verify", "debian.raw", "--json"]) == 0
    assert said(capsys)[0]["problem"] is None


def test_verify_says_what_it_could_not_check(
    store: ImageStore, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lack(_keeper: ImageKeeper, _image: KeptImage) -> str | None:
        raise MissingPartError("qemu-img is not installed", hint="apt install qemu-utils")

    fill(store)
    monkeypatch.setattr(ImageKeeper, "verify", lack)
    assert main(["image", "verify"]) == 0
    assert "structure unchecked: qemu-img is not installed" in capsys.readouterr().out


def test_a_mistyped_image_is_answered_with_the_nearest(store: ImageStore, capsys: Output) -> None:
    assert main(["image", "show", "debain.raw"]) == 1
    assert "the cache is empty: `qemu-node image pull URL`" in capsys.readouterr().err
    fill(store)
    for name, meant in (("debain.raw", "debian.raw"), (URL[:-2], URL)):
        assert main(["image", "show", name]) == 1
        assert f" hint: did you mean {meant}? " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["image show deb", "image rm x deb", "image verify deb", "image unpin deb"]
)
def test_images_complete_to_their_names_with_the_settings_named_before(
    store: ImageStore, capsys: Output, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    fill(store)
    fill(store, "https://a.example/other.raw")
    line = f"qemu-node --config {os.environ['QEMU_NODE_CONFIG']} {words}"
    monkeypatch.setenv("QEMU_NODE_CONFIG", "/absent")
    monkeypatch.setenv("_QEMU_NODE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out == "plain,debian.raw\n"
