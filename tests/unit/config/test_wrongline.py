import pytest

from qemu_node.config.node import NodeConfig, SettingError, parse
from qemu_node.config.wrongline import line_of, with_line

POLICY = "[[network.policy]]\nnamespaces = ['a']\nvlans = ['1-']\n"
GOOD = "[[network.policy]]\nnamespaces = ['a']\nvlans = ['9']\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("[qemu]\nmerge = true\n", None),
        ("= 1", None),
        ("[qemu]\n# a comment\n\nacelerator = 'kvm'\nmerge = true\n", 4),
        ("[metwork]\nbridge = 'br0'\n", 1),
        ("metwork.bridge = 'br0'\n", 1),
        # A value of several lines begins with its key.
        ("[images]\nsources = [\n  'a',\n  1,\n]\nttl = '1m'\n", 2),
        ('[images]\nttl = """\n5"""\n', 2),
        # Two settings contradict each other from the second on.
        ("[images]\nlow_space = '30%'\nhigh_space = '20%'\n", 2),
        ("[images]\nhigh_space = '30%'\nttl = '1m'\nlow_space = '40%'\n", 4),
        # What is missing is missed where its table is.
        (f"{GOOD}{GOOD}[[network.policy]]\nnamespaces = ['a']\n[qemu]\n", 8),
        # Half of a file may be wrong where all of it is right.
        ("[network]\nuplink = 'bond0'\nbridge = 'br0'\nvhost = 'on'\n", 4),
        ("[qemu]\nfirst_uid = 1\n[network]\nuplink = 'bond0'\nbridge = 'br0'\n", 2),
    ],
)
def test_the_line_is_where_the_problem_begins(text: str, line: int | None) -> None:
    assert line_of(text, lambda _: None) == line


def test_a_file_that_is_too_long_is_not_searched() -> None:
    text = "[qemu]\nacelerator = 'kvm'\n" + "# more\n" * 1000
    assert line_of(text, lambda _: None) is None
    with pytest.raises(SettingError) as refused:
        parse(text, "node.toml")
    assert str(with_line(refused.value)) == "node.toml: there is no setting qemu.acelerator"


def test_a_policy_is_found_among_others() -> None:
    for before in range(4):
        assert line_of(GOOD * before + POLICY + GOOD, lambda _: None) == 3 * before + 3


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[qemu]\nacelerator = 'kvm'", "did you mean accelerator?"),
        ("[metwork]\nbridge = 'br0'", "did you mean network?"),
        ("[[network.policy]]\nvlan = ['1']", "did you mean vlans?"),
        ("[[images.credentials]]\npasword_file = '/x'", "did you mean password_file?"),
        ("[qemu]\nxyzzy = 1", "docs/node-toml.md lists all settings"),
    ],
)
def test_a_mistyped_setting_is_answered_with_the_nearest(text: str, hint: str) -> None:
    with pytest.raises(SettingError) as refused:
        parse(text, "node.toml")
    assert refused.value.hint == hint
    assert isinstance(parse("", "x"), NodeConfig)
