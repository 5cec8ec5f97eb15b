import gzip
import re
from pathlib import Path

import pytest

from qemu_node.errors import MissingPartError
from qemu_node.web.page.pagefiles import DIRECTORY, read_page

OWN = sorted((DIRECTORY / "app").glob("*.mjs"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    files = {
        "index.html": "<script src='{assets}/app/main.mjs'></script>\n{preloads}\n",
        "icon.svg": "<svg/>",
        "style.css": "a { b: c }",
        "secret.py": "no",
        "app/main.mjs": "import './other.mjs'; import '../vendor/a.mjs'; import('./late.mjs')",
        "app/other.mjs": "",
        "app/late.mjs": "",
        "vendor/a.mjs": "",
        "vendor/digests.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_only_what_a_browser_needs_is_served(directory: Path) -> None:
    page = read_page(directory)
    assert set(page.assets) == {
        "icon.svg",
        "style.css",
        "app/main.mjs",
        "app/other.mjs",
        "app/late.mjs",
        "vendor/a.mjs",
    }
    assert page.icon.data == b"<svg/>"
    assert all(gzip.decompress(file.packed) == file.data for file in page.assets.values())


def test_index_names_the_version_and_the_modules_that_the_page_begins_with(
    directory: Path,
) -> None:
    page = read_page(directory)
    text = page.index.data.decode()
    assert f"src='{page.prefix}/app/main.mjs'" in text
    assert re.findall(r'modulepreload" href="/assets/\w+/([^"]*)', text) == [
        "app/main.mjs",
        "app/other.mjs",
        "vendor/a.mjs",
    ]


def test_any_change_of_a_file_is_another_version(directory: Path) -> None:
    before = read_page(directory).version
    assert read_page(directory).version == before
    (directory / "style.css").write_text("a { b: d }")
    assert read_page(directory).version != before


def test_page_without_the_modules_of_others_says_how_to_get_them(directory: Path) -> None:
    (directory / "vendor/digests.txt").unlink()
    with pytest.raises(MissingPartError) as info:
        read_page(directory)
    assert "make setup" in (info.value.hint or "")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_own_modules_put_no_text_into_the_page_but_as_text(path: Path) -> None:
    text = path.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    assert "dangerouslySetInnerHTML" not in text
    assert not re.search(r"""["'`](?:https?:)?//[a-z]""", text), "names another host"
