from qemu_node.web.http.listener.selfmade import request_config


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
