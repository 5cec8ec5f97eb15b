import pytest

from qemu_node.images.errors import ImageRefusedError
from qemu_node.images.http.httpfile import HttpFile, _next_hop
from qemu_node.images.http.url import parse_url

FILE = HttpFile(url="https://example.org/x", shown="https://example.org/x")


@pytest.mark.parametrize("location", ["http://example.org/y", "HTTP://other.org/y?token=secret"])
def test_redirect_from_https_to_http_is_refused_without_its_secrets(location: str) -> None:
    with pytest.raises(ImageRefusedError, match="from https to http") as error:
        _next_hop(FILE, parse_url(FILE.url), location)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("location", ["/y", "//other.org/y", "https://other.org/y"])
def test_redirect_that_stays_with_https_is_followed(location: str) -> None:
    assert _next_hop(FILE, parse_url(FILE.url), location).scheme == "https"
