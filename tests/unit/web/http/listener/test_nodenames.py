import pytest

from qemu_node.web.http.listener.nodenames import names_of, own_addresses


@pytest.mark.parametrize(
    ("host_name", "resolv_conf", "names"),
    [
        ("node1", "", ["node1"]),
        ("Node1.Example.net", "", ["node1.example.net", "node1"]),
        ("node1", "search example.net lab.\n", ["node1", "node1.example.net", "node1.lab"]),
        ("node1", "search .\nnameserver 192.0.2.1\n", ["node1"]),
        ("node1", "search a/b x$y\ndomain ok", ["node1", "node1.ok"]),
        ("", "search example.net", []),
    ],
)
def test_a_node_has_its_name_in_each_of_its_domains(
    host_name: str, resolv_conf: str, names: list[str]
) -> None:
    assert names_of(host_name, resolv_conf) == names


def test_an_address_of_its_own_network_alone_is_none() -> None:
    assert all(not address.startswith("fe80") for address in own_addresses())
