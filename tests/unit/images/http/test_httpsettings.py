import pytest

from qemu_node.images.http.httpsettings import HttpSettings

PROXY = "http://proxy.example.org:3128"


@pytest.mark.parametrize(
    ("host", "is_direct"),
    [
        ("example.org", False),
        ("mirror.example.org", True),
        ("other.mirror.example.org", False),
        ("example.net", False),
        ("a.example.net", True),
        ("a.b.example.net", True),
        ("badexample.net", False),
        ("192.0.2.7", True),
        ("192.0.2.70", False),
        ("[2001:db8::1]", True),
        ("localhost", True),
        ("localhost.", True),
        ("mirror.example.org.", True),
        ("127.0.0.1", True),
        ("[::1]", True),
    ],
)
def test_hosts_of_no_proxy_and_the_node_itself_are_asked_directly(
    host: str, *, is_direct: bool
) -> None:
    http = HttpSettings(
        proxy=PROXY,
        no_proxy=("Mirror.example.org", "*.example.net", "192.0.2.7", "2001:db8::1"),
    )
    assert http.proxy_for(host) == (None if is_direct else PROXY)
    assert HttpSettings().proxy_for(host) is None
