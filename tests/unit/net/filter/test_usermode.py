import re

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.filter.usermode import parse_resolvers, remove_text, table_name, table_text

UIDS = range(200_000, 210_000)


def test_name_servers_are_read_as_the_resolver_reads_them() -> None:
    text = """
    # nameserver 192.0.2.1
    nameserver 127.0.0.53
    nameserver\t2001:db8::53 # ours
    nameserver fe80::1%eth0
    nameserver 127.0.0.53
    nameserver nonsense; drop
    nameserver
    search example.org
    """
    assert parse_resolvers(text) == ["127.0.0.53", "2001:db8::53", "fe80::1"]


@given(st.text(max_size=200))
def test_nothing_but_addresses_comes_out_of_any_file(text: str) -> None:
    assert all(re.fullmatch(r"[0-9a-f:.]+", found) for found in parse_resolvers(text))


def test_questions_to_name_servers_come_before_the_refusal() -> None:
    text = table_text(UIDS, ["127.0.0.53", "2001:db8::53"])
    allowed = [line.strip() for line in text.splitlines() if "dport 53" in line]
    assert allowed == [
        "ip daddr 127.0.0.53 meta l4proto { tcp, udp } th dport 53 accept",
        "ip6 daddr 2001:db8::53 meta l4proto { tcp, udp } th dport 53 accept",
    ]
    assert text.index("dport 53") < text.index("counter reject")


def test_only_the_users_of_vms_are_meant() -> None:
    out = table_text(UIDS, []).partition("chain out")[2]
    assert re.findall(r".*(?:goto|jump|drop|reject).*", out) == [
        "    meta skuid 200000-209999 goto guests"
    ]


def test_tables_of_other_users_have_other_names() -> None:
    assert table_name(UIDS) != table_name(range(300_000, 310_000))
    assert remove_text(UIDS) == "delete table inet qn_user_200000_10000\n"


def test_flags_are_declared_wherever_the_table_is() -> None:
    assert table_text(UIDS, [], "owner, persist").count("flags owner, persist;") == 2
