import pytest
from fakes.command_line import Node
from fakes.published import VM_ID

from qemu_node.cli.main import main
from qemu_node.cli.vm.commands import vm as vm_group

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        *((f"vm {name} w", f"plain,{VM_ID}\n") for name in sorted({*vm_group.commands} - {"list"})),
        ("vm exec --timeout 5s w", f"plain,{VM_ID}\n"),
        ("vm stop x", "\n"),
    ],
)
@pytest.mark.parametrize("is_named_before", [True, False])
def test_vms_complete_to_their_ids_with_the_settings_named_before_or_in_the_environment(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    words: str,
    offered: str,
    is_named_before: bool,
) -> None:
    node.publish()
    monkeypatch.setenv("QEMU_NODE_CONFIG", "/absent" if is_named_before else str(node.config))
    line = f"qemu-node {f'--config {node.config} ' if is_named_before else ''}{words}"
    monkeypatch.setenv("_QEMU_NODE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out == offered


def test_settings_that_are_wrong_complete_to_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("_QEMU_NODE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "qemu-node --config /absent vm show w")
    monkeypatch.setenv("COMP_CWORD", "5")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr() == ("\n", "")
