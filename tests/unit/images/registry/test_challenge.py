import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.registry.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"},
                )
            ],
        ),
        ('Basic realm="a \\"b\\", c"', [Challenge("basic", {"realm": 'a "b", c'})]),
        ("BEARER REALM = https, Scope=x", [Challenge("bearer", {"realm": "https", "scope": "x"})]),
        (
            'Negotiate, Basic realm="x"',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
        ),
        (
            'NTLM TlRMTVNTUAA=, Bearer realm="x", scope="a,b"',
            [Challenge("ntlm", {}), Challenge("bearer", {"realm": "x", "scope": "a,b"})],
        ),
        (
            'Bearer realm="first", realm="second"',
            [Challenge("bearer", {"realm": "first"})],
        ),
        ("Basic", [Challenge("basic", {})]),
        ("", []),
        (" , ,", []),
        ('realm="x"', []),
        ('Bearer realm="open', [Challenge("bearer", {})]),
        ("Bearer " + "x" * 9000, []),
    ],
)
def test_challenges_are_read_as_far_as_they_make_sense(
    value: str, expected: list[Challenge]
) -> None:
    assert parse_challenges(value) == expected


@given(st.text(alphabet='Bearer realm="\\, \t=a/:\x00é', max_size=200))
def test_any_header_gives_challenges_or_none(value: str) -> None:
    for challenge in parse_challenges(value):
        assert challenge.scheme == challenge.scheme.lower() != ""


_WORDS = st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


@given(_WORDS, _WORDS)
def test_any_quoted_value_comes_back(realm: str, service: str) -> None:
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (realm, service)]
    value = f'Bearer realm="{quoted[0]}",service="{quoted[1]}"'
    assert parse_challenges(value) == [Challenge("bearer", {"realm": realm, "service": service})]
