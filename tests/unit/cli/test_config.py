import json
from pathlib import Path

import pytest

from qemu_node.cli.config import effective
from qemu_node.cli.main import main
from qemu_node.config.node import parse
from qemu_node.errors import HostError, NodeError
from qemu_node.nodeos.agent import certificates
from qemu_node.nodeos.agent.certificates import Making
from qemu_node.nodeos.paths import NodePaths

Output = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "node.toml"
    monkeypatch.setenv("QEMU_NODE_CONFIG", str(path))
    return path


def test_a_file_that_is_right_is_ok(file: Path, capsys: Output) -> None:
    file.write_text("[qemu]\nmerge = false\n")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"
    assert main(["config", "check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"ok": True, "file": str(file), "problem": None, "hint": None}


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        (
            "[qemu]\n\nacelerator = 'kvm'\n",
            ":3: there is no setting qemu.acelerator",
            "did you mean accelerator?",
        ),
        ("[disk]\nreserve = '120%'\n", ":2: '120%'", None),
        ("[qemu]\nmerge = true\n= 1\n", " is not TOML: ", None),
        # What only the cache, or QEMU's side, understands.
        ("[images]\nttl = '1m'\nsources = ['a b']\n", ":3: images.sources", None),
        ("[images]\nprefetch = [\n  '/x',\n]\n", ":2: images.prefetch: /x is a path", None),
        ("[qemu]\nallow_args = ['(']\n", ":2: qemu.allow_args: '(' is no regular", None),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    file: Path, capsys: Output, text: str, error: str, hint: str | None
) -> None:
    file.write_text(text)
    assert main(["config", "check"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}{error}")
    assert hint is None or f" hint: {hint}" in said
    assert main(["config", "check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["file"]) == (False, str(file))
    assert error in found["problem"]


def test_every_command_names_the_line(file: Path, capsys: Output) -> None:
    file.write_text("[network]\nuplink = 'bond0'\n")
    for command in (["vm", "list"], ["image", "list"], ["config", "show"]):
        assert main(command) == 1
        assert f"{file}:2: network.uplink" in capsys.readouterr().err


def test_a_named_file_that_is_missing_is_wrong_and_a_default_one_is_not(
    file: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["config", "check"]) == 1
    assert "no such file" in capsys.readouterr().err
    monkeypatch.delenv("QEMU_NODE_CONFIG")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.endswith("node.toml: missing; the defaults apply\n")
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] is None


def test_show_tells_each_setting_and_where_it_comes_from(file: Path, capsys: Output) -> None:
    file.write_text(
        "[qemu]\nmerge = false\n[[network.policy]]\nnamespaces = ['*']\nvlans = ['9']\n"
    )
    assert main(["config", "show"]) == 0
    output = capsys.readouterr()
    assert output.err == f"file: {file}\n"
    lines = [line.split() for line in output.out.splitlines()]
    assert lines[0] == ["SETTING", "SOURCE", "VALUE"]
    assert ["qemu.merge", "file", "false"] in lines
    assert ["qemu.binary", "default", '"qemu-system-x86_64"'] in lines
    assert main(["--config", str(file), "config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["file"] == str(file)
    [policy] = [one for one in shown["settings"] if one["name"] == "network.policy"]
    assert policy["source"] == "file"
    assert policy["value"][0]["vlans"] == ["9"]


def test_no_setting_is_left_out() -> None:
    config = parse("", "x")
    names = {setting.name for setting in effective(config, "")}
    for section in config.__struct_fields__:
        for name in getattr(config, section).__struct_fields__:
            assert f"{section}.{name}" in names


def test_secrets_in_the_urls_of_images_are_not_shown(file: Path, capsys: Output) -> None:
    file.write_text("[images]\nprefetch = ['https://user:s3cret@h.example/a?sig=s3cret']\n")
    for options in ([], ["--json"]):
        assert main(["config", "show", *options]) == 0
        said = capsys.readouterr().out
        assert "https://h.example/a?" in said
        assert "s3cret" not in said


def test_a_setting_with_a_nul_is_refused(file: Path, capsys: Output) -> None:
    file.write_text("[images]\nimage_paths = ['a\\u0000']\nca_file = \"/a\\u0000\"\n")
    assert main(["config", "check"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {file}:3: a setting holds a NUL")


def test_vms_in_ram_are_wrong_on_the_nodes_own_system(
    file: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "proc/self").mkdir(parents=True)
    (root / "run/elemental").mkdir(parents=True)
    mounts = "22 1 7:0 / / ro - ext2 /dev/loop0 ro\n24 22 0:33 / /var rw - overlay overlay rw\n"
    (root / "proc/self/mountinfo").write_text(mounts)
    monkeypatch.setattr("qemu_node.nodeos.paths.NodePaths", lambda: NodePaths(root))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("QEMU_NODE_DATA", "/data")
    file.write_text("[paths]\ndata = '/var/lib/qemu-node'\n")
    # Elsewhere, and on the live system, nothing is wrong with it.
    assert main(["config", "check"]) == 0
    (root / "run/elemental/active_mode").touch()
    capsys.readouterr()
    assert main(["config", "check"]) == 1
    said = capsys.readouterr().err
    assert f"error: {file}:2: paths.data is /var/lib/qemu-node, which is in RAM here" in said
    assert 'hint: data = "/data"' in said
    file.write_text("[paths]\ndata = '/data'\n")
    assert main(["config", "check"]) == 0


SAMPLES = Path(__file__).parents[3] / "osimage/files/usr/share/nomad"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("qemu_node.nodeos.agent.facts.shutil.which", lambda _name: None)
    directory = tmp_path / "config"
    directory.mkdir()
    for sample in SAMPLES.iterdir():
        text = sample.read_text().replace("/usr/lib/nomad/plugins", str(tmp_path))
        (directory / sample.name).write_text(text.replace("/data/", f"{tmp_path}/"))
    plugin = tmp_path / "vm"
    plugin.touch()
    plugin.chmod(0o755)
    return directory


def test_nomads_configuration_is_checked_with_node_toml(directory: Path, capsys: Output) -> None:
    assert main(["config", "check", str(directory)]) == 0
    shown = capsys.readouterr()
    assert f"{directory}/node.toml: ok" in shown.out
    assert f"{directory}: Nomad's configuration is ok" in shown.out
    # A single node makes its certificates.
    assert "warning: certificates are missing that this node can make by itself" in shown.err


def test_what_is_wrong_in_either_is_an_error(directory: Path, capsys: Output) -> None:
    (directory / "server.hcl").unlink()
    (directory / "node.toml").write_text("[metwork]\n")
    assert main(["config", "check", str(directory)]) == 1
    shown = capsys.readouterr()
    assert "there is no setting metwork" in shown.err
    assert "the client knows no server" in shown.err
    assert "Nomad's configuration is ok" not in shown.out
    assert main(["config", "check", str(directory), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"]
    assert any("knows no server" in finding["text"] for finding in said["nomad"])


def test_a_file_of_nomads_that_is_no_hcl_is_named(directory: Path, capsys: Output) -> None:
    (directory / "client.hcl").write_text("client {\n")
    assert main(["config", "check", str(directory)]) == 1
    assert f"error: {directory}/client.hcl" in capsys.readouterr().err


def test_an_empty_directory_says_where_samples_are(tmp_path: Path, capsys: Output) -> None:
    assert main(["config", "check", str(tmp_path)]) == 1
    assert "cp /usr/share/nomad/*" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Making.CA_AND_CERTIFICATE, "made a CA and a certificate"),
        (HostError("the disk is full"), "the disk is full"),
    ],
)
def test_nomads_unit_has_certificates_made_before_the_check_which_goes_on_without_them(
    directory: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Making | NodeError,
    said: str,
) -> None:
    async def make(*_arguments: object) -> Making:
        if isinstance(outcome, NodeError):
            raise outcome
        return outcome

    monkeypatch.setattr(certificates, "make_certificates", make)
    assert main(["config", "prepare", str(directory)]) == 0
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert "Nomad's configuration is ok" in shown.out
