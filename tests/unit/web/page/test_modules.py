import pytest

from qemu_node.web.page.modules import imports_of, modules_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import { a } from './b.mjs';", ["app/b.mjs"]),
        ('import a, { b } from "../vendor/x/y.js"', ["vendor/x/y.js"]),
        ("import './b.mjs';", ["app/b.mjs"]),
        ("export * from './b.mjs';\nexport { c } from './c.mjs'", ["app/b.mjs", "app/c.mjs"]),
        ("import {\n  a,\n  b,\n} from './b.mjs';", ["app/b.mjs"]),
        ('import{a as b}from"./b.mjs";var c="./d.mjs"', ["app/b.mjs"]),
        ("const later = () => import('./later.mjs');", []),
        ("export const name = 'a';\nconst b = './c.mjs';", []),
    ],
)
def test_imports_of_a_module_are_found_but_not_those_that_come_later(
    text: str, found: list[str]
) -> None:
    assert imports_of("app/a.mjs", text) == found


def test_modules_are_each_named_once_also_in_a_circle() -> None:
    texts = {
        "a.mjs": "import './b.mjs'; import './c.mjs';",
        "b.mjs": "import './c.mjs';",
        "c.mjs": "import './a.mjs';",
        "other.mjs": "",
    }
    assert modules_of("a.mjs", texts) == ["a.mjs", "b.mjs", "c.mjs"]


def test_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        modules_of("a.mjs", {"a.mjs": "import './b.mjs'"})
