import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config import node as node_config
from qemu_node.config.node import (
    CONFIG_ENV,
    DATA_ENV,
    Paths,
    default_paths,
    find_earlier_data,
    load,
    parse,
)
from qemu_node.errors import ConfigError
from qemu_node.units import GIB


def test_an_empty_file_means_the_defaults() -> None:
    config = parse("", "node.toml")
    assert config.qemu.accelerator == "auto"
    assert config.images.max_size_bytes == 256 * GIB
    assert config.paths == default_paths()


_VALUES = st.sampled_from(
    [
        "5",
        "-1",
        "1e400",
        "nan",
        "true",
        "''",
        "'/'",
        "[]",
        "[[1]]",
        "{}",
        "{a=1}",
        "1979-05-27",
        "'9' ",
        "['fe80::1%eth0/64']",
        "[{vlan=3}]",
    ]
) | st.text(max_size=8)
_KEYS = st.sampled_from([
    "paths", "paths.run", "paths.data", "images", "images.sources", "images.credentials", "qemu",
    "images.max_size", "qemu.first_uid", "logs.rate", "network", "network.policy", "disk.reserve",
    "uplink", "uplink.nics", "uplink.mac", "uplink.addresses", "uplink.gateways", "uplink.domains",
    "uplink.vlans", "uplink.mtu",
])  # fmt: skip


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=3))
def test_whatever_is_in_node_toml_it_is_read_or_an_error_for_people(
    settings: list[tuple[str, str]],
) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in settings)
    with contextlib.suppress(ConfigError):
        parse(text, "node.toml")


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    for name in ("HOME", "XDG_DATA_HOME", CONFIG_ENV):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"paths\.data must be an absolute path"):
        load()


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Root's default file and earlier data directory, below the directory that this returns."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    monkeypatch.setattr(node_config, "_ROOT_CONFIG", tmp_path / "etc" / "node.toml")
    monkeypatch.setattr(node_config, "_EARLIER_DATA", tmp_path / "data")
    return tmp_path


def test_root_has_its_settings_in_etc_and_its_data_in_var(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    monkeypatch.delenv(DATA_ENV, raising=False)
    assert node_config.default_path() == Path("/etc/qemu-node/node.toml")
    assert default_paths() == Paths(run="/run/qemu-node", data="/var/lib/qemu-node")


def test_a_system_may_name_roots_data_for_a_node_toml_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv(DATA_ENV, "/data")
    assert parse("[qemu]\nmerge = true\n", "x").paths.data == "/data"
    assert parse("[paths]\nrun = '/run/x'\n", "x").paths.data == "/data"
    assert parse("[paths]\ndata = '/srv/vms'\n", "x").paths.data == "/srv/vms"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/alice/data")
    assert default_paths().data == "/home/alice/data/qemu-node"


def test_a_user_has_all_below_the_directories_of_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/alice/data")
    expected = Paths(run="/run/user/1000/qemu-node", data="/home/alice/data/qemu-node")
    assert default_paths() == expected
    assert node_config.default_path() == Path("/home/alice/data/qemu-node/config/node.toml")


def test_settings_where_they_were_before_are_an_error_until_they_are_moved(as_root: Path) -> None:
    assert load() == node_config.NodeConfig()
    old, new = as_root / "data" / "config" / "node.toml", as_root / "etc" / "node.toml"
    old.parent.mkdir(parents=True)
    old.write_text("[network]\nbridge = 'br0'\n")
    with pytest.raises(ConfigError, match="not read any more") as refused:
        load()
    assert f'data = "{as_root}/data"' in (refused.value.hint or "")
    assert load(old).network.bridge == "br0"
    new.parent.mkdir()
    old.rename(new)
    assert load().network.bridge == "br0"


@pytest.mark.parametrize(
    ("marks", "named"),
    [
        ((), None),
        (("vm/photos", "images/cat.png"), None),
        (("vm/.uid",), "{data}/vm: from"),
        (("vm/.uid", "images/store.lock"), "{data}/vm and {data}/images: from"),
    ],
)
def test_vms_and_images_where_they_were_before_are_named(
    as_root: Path, marks: tuple[str, ...], named: str | None
) -> None:
    data = as_root / "data"
    for mark in marks:
        (data / mark).parent.mkdir(parents=True, exist_ok=True)
        (data / mark).touch()
    found = find_earlier_data(Paths(run="/r", data="/var/lib/qemu-node"))
    assert (found or "").startswith((named or "").format(data=data))
    assert (found is None) == (named is None)
    assert find_earlier_data(Paths(run="/r", data=str(data))) is None


def test_one_path_can_be_set_without_the_other() -> None:
    config = parse('[paths]\ndata = "/srv/vm"\n', "node.toml")
    assert config.paths.data == "/srv/vm"
    assert config.paths.run == default_paths().run


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[qemu]\nacelerator = 'kvm'", r"no setting qemu\.acelerator$"),
        ("[qemu]\naccelerator = 'xen'", "accelerator"),
        ("[images]\npull_timeout = '5'", "duration"),
        ("[images]\nmax_size = 'big'", "size"),
        ("[images]\nunused_for = 'long'", "duration"),
        ("[images]\nttl = ''", "duration"),
        ("[images]\nca_file = 'ca.pem'", "absolute"),
        ("[images]\nproxy = 'https://proxy.example.org:3128'", "http://host:port"),
        ("[images]\nproxy = 'http://user:secret@proxy.example.org:3128'", "http://host:port"),
        ("[images]\nproxy = 'http://proxy.example.org'", "http://host:port"),
        ("[images]\nno_proxy = ['http://mirror.example.org']", "not a host"),
        ("[images]\nlow_space = '101%'", "whole"),
        ("[images]\nlow_space = '30%'", "images.high_space"),
        ("[images]\nlow_space = '2G'\nhigh_space = '1G'", "images.high_space"),
        ("[images]\nprefetch = 'https://h/x'", "prefetch"),
        ("[disk]\nreserve = '120%'", "120%"),
        ("[paths]\nrun = 'relative'", "paths.run"),
        ("[logs]\nmax_files = 0", "max_files"),
        ("[qemu]\nfirst_uid = 0", "first_uid"),
        ("[metwork]\nbridge = 'br0'", r"no setting metwork$"),
        ("[network]\nbridge = 'br0; flush'", "network.bridge"),
        ("[network]\nbridge = 'a-very-long-name'", "network.bridge"),
        ("[network]\nuplink = 'bond0'", "need a network.bridge"),
        ("[network]\nbridge = 'br0'\ndefault_vlan = 1", "network.default_vlan"),
        ("[network]\nmanagement_vlan = 4095", "network.management_vlan"),
        (
            "[network]\nbridge = 'br0'\ndefault_vlan = 99\nmanagement_vlan = 99",
            "is the network.management_vlan",
        ),
        ("[[network.policy]]\nnamespaces = ['*']", "vlans"),
        ("[[network.policy]]\nnamespaces = ['*']\nvlans = ['1-9']", "network.policy 1: '1-9'"),
        ("[[network.policy]]\nnamespaces = []\nvlans = ['9']", "no namespaces"),
        (
            "[[network.policy]]\nnamespaces = ['*']\nvlans = ['9']\naddresses = ['10.0.0.1/8']",
            "network.policy 1: 10.0.0.1/8 has host bits set",
        ),
        ("= 1", "TOML"),
        ("paths = 5", "paths"),
        ("qemu = []", "qemu"),
        (f"a = {'9' * 5000}", "TOML"),
        (f"a = {'[' * 5000}", "TOML"),
        ("[paths]\nrun = '/a\\u0000b'".replace("'", '"'), "a NUL"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        parse(text, "/etc/node.toml")
    assert "/etc/node.toml" in str(refused.value)


def test_rules_of_the_network_are_kept_in_order() -> None:
    config = parse(
        """
        [network]
        bridge = "br0"
        uplink = "bond0"
        management_vlan = 99
        [[network.policy]]
        namespaces = ["prod", "prod-*"]
        vlans = ["100-102", "300"]
        trunk = true
        addresses = ["10.20.0.0/16", "2001:db8::/64"]
        [[network.policy]]
        namespaces = ["*"]
        vlans = ["400"]
        """,
        "node.toml",
    ).network
    assert [rule.vids for rule in config.policy] == [{100, 101, 102, 300}, {400}]
    assert config.policy[0].trunk
    assert not config.policy[1].trunk


def test_a_run_directory_whose_sockets_would_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"longer than \d+ bytes"):
        parse(f'[paths]\nrun = "/{"r" * 70}"', "node.toml")


def test_a_missing_default_file_is_fine_but_a_missing_named_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml")
    monkeypatch.setenv(CONFIG_ENV, str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        load()


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)


_BASIC = 'username = "ci"\npassword_file = "/etc/qemu-node/secret"'
_S3_KEYS = 'access_key_id = "AKID"\nsecret_key_file = "/etc/qemu-node/s3"'


def _credentials(*entries: str) -> str:
    return "\n".join(f"[[images.credentials]]\n{entry}" for entry in entries)


@pytest.mark.parametrize(
    "entry",
    [
        f'host = "mirror.example.org"\n{_BASIC}',
        f'host = "registry.example.org:5000"\nplain_http = true\n{_BASIC}',
        'host = "[2001:db8::1]:5000"\ntoken_file = "/run/token"\nnamespaces = ["a"]',
        'host = "registry.example.org"\nplain_http = true',
        f'host = "s3://bucket"\n{_S3_KEYS}\nregion = "eu-central-1"',
        f'host = "s3://bucket"\n{_S3_KEYS}\nendpoint = "http://10.0.0.5:9000"',
        f'host = "s3://bucket"\n{_S3_KEYS}\nsession_token_file = "/run/session"',
        'host = "s3://public-bucket"\nregion = "eu-west-1"',
    ],
)
def test_an_entry_of_credentials_is_of_one_kind(entry: str) -> None:
    [credential] = parse(_credentials(entry), "node.toml").images.credentials
    assert all(path.startswith("/") for path in credential.secret_files)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (_BASIC, "host"),
        (f'host = "https://h/"\n{_BASIC}', "host is wrong"),
        (f'host = "user@h"\n{_BASIC}', "host is wrong"),
        (f'host = "*.example.org"\n{_BASIC}', "host is wrong"),
        (f'host = "s3://b/key"\n{_S3_KEYS}', "host is wrong"),
        ('host = "h"', "names no secret"),
        ('host = "h"\nusername = "ci"', "both username and password_file"),
        ('host = "h"\npassword_file = "/x"', "both username and password_file"),
        ('host = "h"\nusername = "a:b"\npassword_file = "/x"', "colon"),
        ('host = "h"\ntoken_file = "secret"', "absolute"),
        (f'host = "h"\ntoken_file = "/x"\n{_BASIC}', "more than one of"),
        (f'host = "h"\n{_S3_KEYS}', "settings of S3"),
        ('host = "h"\ntoken_file = "/x"\nendpoint = "https://x"', "settings of S3"),
        (f'host = "s3://bucket"\n{_BASIC}', "S3 takes access_key_id"),
        ('host = "s3://bucket"\ntoken_file = "/x"', "S3 takes access_key_id"),
        ('host = "s3://bucket"\naccess_key_id = "AK"', "both access_key_id and secret_key_file"),
        ('host = "s3://bucket"\nsession_token_file = "/x"', "without access_key_id"),
        (f'host = "s3://bucket"\n{_S3_KEYS}\nplain_http = true', "plain_http"),
        (f'host = "s3://bucket"\n{_S3_KEYS}\nregion = "Frankfurt"', "region"),
        (f'host = "s3://bucket"\n{_S3_KEYS}\nendpoint = "minio:9000"', "endpoint"),
        (f'host = "s3://bucket"\n{_S3_KEYS}\nendpoint = "https://u@h"', "endpoint"),
        ('host = "h"\npassword = "hunter2"', "password"),
    ],
)
def test_wrong_credentials_are_refused_by_name(entry: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        parse(_credentials(entry), "/etc/node.toml")
    assert "hunter2" not in str(refused.value)


def test_a_namespace_has_one_entry_of_credentials_per_host() -> None:
    entries = (f'host = "h"\n{_BASIC}', f'host = "H:443"\n{_BASIC}')
    with pytest.raises(ConfigError, match="two entries of 'H:443' for all namespaces"):
        parse(_credentials(*entries), "node.toml")
    of_a = [f'{entry}\nnamespaces = ["a"]' for entry in entries]
    with pytest.raises(ConfigError, match="for namespace 'a'"):
        parse(_credentials(*of_a), "node.toml")
    parse(_credentials(of_a[0], entries[1]), "node.toml")


def test_the_os_image_keeps_its_data_on_its_data_partition() -> None:
    path = Path(__file__).parents[3] / "osimage/files/etc/qemu-node/node.toml"
    assert load(path).paths.data == "/data"


def test_the_first_named_file_that_exists_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    operators, image = tmp_path / "data/node.toml", tmp_path / "node.toml"
    monkeypatch.setenv(CONFIG_ENV, f"{operators}:{image}")
    with pytest.raises(ConfigError, match=f"{image}: no such file"):
        load()
    image.write_text('paths.data = "/image"')
    assert load().paths.data == "/image"
    operators.parent.mkdir()
    operators.write_text('paths.data = "/operator"')
    assert load().paths.data == "/operator"


def test_a_user_without_a_writable_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "XDG_DATA_HOME" in default_paths().data_advice
    assert "XDG_RUNTIME_DIR" in default_paths().run_advice
    named = Paths(run="/srv/run", data="/srv/data")
    assert "paths.data" in named.data_advice
    assert "paths.run" in named.run_advice
