import pytest

from qemu_node.web.http.listener.selfmade import begins_at, request_config


def test_a_certificate_has_names_and_addresses() -> None:
    text = request_config(["node1.example.net", "node1"], ["192.0.2.10", "2001:db8::1"])
    assert "CN = node1.example.net\n" in text
    assert (
        "subjectAltName = DNS:node1.example.net,DNS:node1,DNS:localhost,"
        "IP:192.0.2.10,IP:2001:db8::1,IP:127.0.0.1,IP:::1\n" in text
    )


def test_a_name_that_is_none_changes_no_other_line() -> None:
    text = request_config(["a\nbasicConstraints = CA:TRUE", "b,DNS:bank.example", ""], [])
    assert "CN = localhost\n" in text
    assert "subjectAltName = DNS:localhost,IP:127.0.0.1,IP:::1\n" in text
    assert "CA:TRUE" not in text


@pytest.mark.parametrize(
    ("said", "unix_time"),
    [
        ("notBefore=Jan  2 00:00:00 1970 GMT\nCertificate will not expire\n", 86400.0),
        ("Certificate will not expire\nnotBefore=Dec 31 23:59:59 2037 GMT\n", 2145916799.0),
        ("notBefore=soon\n", 0.0),
        ("", 0.0),
    ],
)
def test_the_begin_of_a_certificate_is_read(said: str, unix_time: float) -> None:
    assert begins_at(said) == unix_time
