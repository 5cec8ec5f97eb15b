"""What a guest in user mode reaches of its node: real sockets of the user that its QEMU has."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from integration.persistenttable import leave_persistent_table
from network.facts import wait_until
from network.namespaces import ip, private_network

from qemu_node.host.process import command, pidfd
from qemu_node.host.process.users import pids_of_users
from qemu_node.net.filter.guard import UserGuard
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.usermode import table_name, table_text

pytestmark = [pytest.mark.needs_root]

UIDS = range(200_000, 200_010)
NODE = "10.5.0.1"


@pytest.fixture
def nft() -> Iterator[Nft]:
    with private_network():
        ip(
            f"""link add lan0 type veth peer name lan1
            addr add {NODE}/24 dev lan0
            link set lan0 up
            link set lan1 up"""
        )
        context = Nft()
        yield context
        context.close()


@pytest.fixture(params=["127.0.0.1", NODE])
def service(request: pytest.FixtureRequest, nft: Nft) -> Iterator[tuple[str, int]]:
    """A service of the node's."""
    listener = socket.create_server((request.param, 0))
    with closing(listener):
        yield listener.getsockname()


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Make sockets that belong to `uid`: the kernel goes by who made them."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def reaches(uid: int, address: tuple[str, int]) -> bool:
    with as_user(uid):
        sock = socket.socket()
    with closing(sock):
        sock.settimeout(10)
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            return False
    return True


def test_a_table_that_a_newer_nft_made_to_persist_is_taken_over(nft: Nft) -> None:
    if not leave_persistent_table("inet", table_name(UIDS)):
        pytest.skip("this kernel cannot make tables persist")
    guard = UserGuard(UIDS, is_open=False)
    guard.load(nft)
    listing = nft.list_table("inet", table_name(UIDS))
    assert listing is not None
    assert "skuid" in str(listing)
    guard.remove(nft, own_pids=())
    assert not guard.is_loaded(nft)


def test_the_table_of_a_driver_that_is_gone_is_removed_unless_something_runs_as_its_users(
    nft: Nft,
) -> None:
    gone, busy = (UserGuard(range(first, first + 5), is_open=False) for first in (310_000, 320_000))
    gone.load(nft)
    busy.load(nft)
    nft.run("add table inet qn_user_of_somebody\n")
    argv = ["setpriv", "--reuid", "320003", "--clear-groups", "sleep", "600"]
    child = command.spawn(argv, stderr_fd=2)
    try:
        wait_until(lambda: child.process.pid in pids_of_users(range(320_000, 320_005)), "the user")
        UserGuard(UIDS, is_open=False).remove_abandoned(nft)
        assert nft.list_names("inet") == [
            table_name(range(320_000, 320_005)),
            "qn_user_of_somebody",
        ]
    finally:
        pidfd.send_signal(child.process, signal.SIGKILL)
        wait_until(lambda: child.exit_status() is not None, "the end")


def send_twice(client: socket.socket) -> None:
    """Send, and send again: that the first was refused is said at the second."""
    client.send(b"question")
    client.send(b"question")


def test_a_vms_user_reaches_no_service_of_the_node_and_others_do(
    nft: Nft, service: tuple[str, int]
) -> None:
    assert reaches(UIDS[0], service)
    UserGuard(UIDS, is_open=False).load(nft)
    assert not reaches(UIDS[0], service)
    assert not reaches(UIDS[-1], service)
    assert reaches(UIDS.stop, service)
    assert reaches(0, service)


def test_the_operator_can_open_the_node(nft: Nft, service: tuple[str, int]) -> None:
    for is_open in (True, False, True):
        guard = UserGuard(UIDS, is_open=is_open)
        guard.load(nft)
        assert guard.is_loaded(nft) is not is_open
        assert reaches(UIDS[0], service) is is_open


def test_a_forwarded_port_of_a_vm_is_reached_from_the_node(nft: Nft) -> None:
    UserGuard(UIDS, is_open=False).load(nft)
    with as_user(UIDS[3]):
        listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener), socket.create_connection(listener.getsockname(), timeout=10) as client:
        served, _ = listener.accept()
        with closing(served):
            served.sendall(b"hello")
            assert client.recv(5) == b"hello"


@pytest.mark.parametrize(("port", "is_allowed"), [(53, True), (54, False)])
def test_only_questions_to_the_nodes_name_server_pass(
    nft: Nft, port: int, *, is_allowed: bool
) -> None:
    nft.run(table_text(UIDS, ["127.0.0.1"]))
    server = socket.socket(type=socket.SOCK_DGRAM)
    with as_user(UIDS[0]):
        client = socket.socket(type=socket.SOCK_DGRAM)
    with closing(server), closing(client):
        server.bind(("127.0.0.1", port))
        server.settimeout(10)
        client.connect(("127.0.0.1", port))
        if is_allowed:
            client.send(b"question")
            assert server.recv(100) == b"question"
        else:
            with pytest.raises(OSError, match=r"refused|not permitted"):
                send_twice(client)


def test_broadcasts_and_multicasts_of_a_vms_user_do_not_reach_the_node(nft: Nft) -> None:
    UserGuard(UIDS, is_open=False).load(nft)
    ip("route add 224.0.0.0/4 dev lan0")
    for address in ("10.5.0.255", "224.0.0.251"):
        with as_user(UIDS[0]):
            client = socket.socket(type=socket.SOCK_DGRAM)
        with closing(client):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.connect((address, 5353))
            with pytest.raises(OSError, match=r"refused|not permitted"):
                send_twice(client)


def test_the_table_is_loaded_again_when_its_rules_are_gone_and_not_otherwise(
    nft: Nft, service: tuple[str, int]
) -> None:
    guard = UserGuard(UIDS, is_open=False)
    guard.ensure(nft)
    handles = nft.list_table("inet", table_name(UIDS))
    guard.ensure(nft)
    assert nft.list_table("inet", table_name(UIDS)) == handles
    nft.run(f"flush chain inet {table_name(UIDS)} out\n")
    assert reaches(UIDS[0], service)
    guard.ensure(nft)
    assert not reaches(UIDS[0], service)


def test_the_table_goes_when_nobody_needs_it(nft: Nft) -> None:
    guard = UserGuard(UIDS, is_open=False)
    guard.remove(nft, ())
    guard.ensure(nft)
    guard.remove(nft, ())
    assert not guard.is_loaded(nft)
    guard.ensure(nft)
    assert guard.is_loaded(nft)


def test_a_table_that_keeps_vms_of_somebody_else_off_the_node_stays(
    nft: Nft, tmp_path: Path
) -> None:
    guard = UserGuard(UIDS, is_open=False)
    guard.ensure(nft)
    argv = ["setpriv", "--reuid", str(UIDS[2]), "--clear-groups", "sleep", "600"]
    with (tmp_path / "stderr").open("wb") as stderr:
        child = command.spawn(argv, stderr_fd=stderr.fileno())
    try:
        wait_until(lambda: pids_of_users(UIDS) == {child.process.pid}, "the process")
        guard.remove(nft, ())
        assert guard.is_loaded(nft)
        guard.remove(nft, [child.process.pid])
        assert not guard.is_loaded(nft)
    finally:
        pidfd.send_signal(child.process, signal.SIGKILL)
        # A zombie until it is asked for.
        wait_until(lambda: not pids_of_users(UIDS), "its end")
        wait_until(lambda: child.exit_status() is not None, "its exit status")
