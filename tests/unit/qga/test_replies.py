from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import GuestAgentError
from qemu_node.qga import replies
from qemu_node.qga.replies import GuestInterface


def interface(**members: Any) -> replies.RawInterface:
    return msgspec.convert(
        {key.replace("_", "-"): value for key, value in members.items()}, replies.RawInterface
    )


def status(**members: int) -> replies.RawExecStatus:
    return msgspec.convert({"exited": True, **members}, replies.RawExecStatus)


def test_interfaces_keep_only_what_is_an_address() -> None:
    raw = interface(
        name="eth0\x1b[31m",
        hardware_address="52:54:00:AB:CD:EF",
        ip_addresses=[
            {"ip-address": "10.0.2.15"},
            {"ip-address": "FE80::0001%eth0\x1b"},
            {"ip-address": "<script>"},
            {"ip-address": ""},
        ],
    )
    assert replies.interfaces([raw]) == [
        GuestInterface(
            name="eth0?[31m", mac="52:54:00:ab:cd:ef", addresses=("10.0.2.15", "fe80::1")
        )
    ]


@pytest.mark.parametrize("text", ["", "00:00:00:00:00:00", "x" * 17, "52:54:00:ab:cd:ef\n"])
def test_what_is_no_mac_is_empty(text: str) -> None:
    (found,) = replies.interfaces([interface(name="lo", hardware_address=text)])
    assert found.mac == ""


def test_lists_of_a_hostile_guest_are_cut() -> None:
    many = [{"ip-address": "10.0.0.1"}] * 10_000
    found = replies.interfaces([interface(name="x" * 9999, ip_addresses=many)] * 10_000)
    assert len(found) == 256
    assert len(found[0].addresses) == 64
    assert len(found[0].name) == 400


def test_disabled_commands_are_not_listed() -> None:
    raw = msgspec.convert(
        {
            "version": "10.0.2",
            "supported_commands": [
                {"name": "guest-ping", "enabled": True, "success-response": True},
                {"name": "guest-exec", "enabled": False},
            ],
        },
        replies.RawInfo,
    )
    info = replies.agent_info(raw)
    assert info.enabled == {"guest-ping"}
    assert info.version == "10.0.2"


@pytest.mark.parametrize(
    ("members", "exit_code", "signal"),
    [
        ({"exitcode": 0}, 0, None),
        ({"exitcode": 255}, 255, None),
        ({"exitcode": -1}, -1, None),
        ({"exitcode": 0xC0000005}, 0xC0000005 - (1 << 32), None),
        ({"signal": 9}, 137, 9),
        ({"signal": 0xC0000005}, 255, 0xC0000005),
        ({"exitcode": 1, "signal": 9}, 1, None),
    ],
)
def test_end_of_a_program_fits_32_bits(
    members: dict[str, int], exit_code: int, signal: int | None
) -> None:
    result = replies.exec_result(status(**members))
    assert (result.exit_code, result.signal) == (exit_code, signal)


@pytest.mark.parametrize(
    "members", [{}, {"exitcode": 1 << 40}, {"exitcode": -(1 << 40)}, {"signal": -1}]
)
def test_impossible_end_is_an_error(members: dict[str, int]) -> None:
    with pytest.raises(GuestAgentError):
        replies.exec_result(status(**members))


def test_output_is_truncated_if_either_is() -> None:
    raw = replies.RawExecStatus(exited=True, exitcode=0, out_data=b"a", err_truncated=True)
    result = replies.exec_result(raw)
    assert (result.stdout, result.stderr, result.truncated) == (b"a", b"", True)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.text(), st.text(), st.lists(st.text(max_size=50), max_size=3)), max_size=3
    )
)
def test_every_text_of_the_guest_becomes_printable(
    raw: list[tuple[str, str, list[str]]],
) -> None:
    found = replies.interfaces(
        [
            replies.RawInterface(
                name=name,
                hardware_address=mac,
                ip_addresses=[replies.RawAddress(ip_address=address) for address in addresses],
            )
            for name, mac, addresses in raw
        ]
    )
    for item in found:
        assert all(text.isprintable() for text in (item.name, item.mac, *item.addresses))


_TEXTS = st.text(max_size=600)


@given(
    filesystems=st.lists(
        st.builds(
            replies.RawFilesystem,
            mountpoint=_TEXTS,
            name=_TEXTS,
            type=_TEXTS,
            used_bytes=st.none() | st.integers(),
            total_bytes=st.none() | st.integers(),
        ),
        max_size=3,
    ),
    users=st.lists(st.builds(replies.RawUser, user=_TEXTS, login_time=st.floats()), max_size=3),
    load=st.builds(replies.RawLoad, load1m=st.floats(), load5m=st.floats(), load15m=st.floats()),
)
def test_what_a_guest_says_of_its_use_is_text_and_numbers_that_others_can_read(
    filesystems: list[replies.RawFilesystem],
    users: list[replies.RawUser],
    load: replies.RawLoad,
) -> None:
    found = replies.filesystems(filesystems)
    sizes = [size for item in found for size in (item.used_bytes, item.total_bytes)]
    assert all(size is None or 0 <= size < 1 << 63 for size in sizes)
    people = replies.users(users)
    said = replies.load(load)
    numbers = [person.login_time_s for person in people]
    numbers += [said.over_1_min, said.over_5_min, said.over_15_min]
    assert all(0 <= number < 1 << 53 for number in numbers)
    texts = [text for item in found for text in (item.mountpoint, item.name, item.type)]
    texts += [person.name for person in people]
    assert all(text.isprintable() and len(text) <= 400 for text in texts)
    assert msgspec.json.encode([found, people, said])
