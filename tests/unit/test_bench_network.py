import pytest

from bench.network.facts import NetworkRun, PortTimes, Rates, StopTimes, WayRates
from bench.network.flow import tcp_mbit, udp_packets
from bench.network.goals import HostFacts, figures, program_for
from bench.rig.node import CannotRunError
from bench.table import Verdict

ALL = {"mmdebstrap", "mksquashfs", "qemu-system-x86_64", "iperf3", "nft"}


def facts(*, installed: set[str] = ALL, is_root: bool = True, vlans: bool = False) -> HostFacts:
    return HostFacts(is_root=is_root, filters_vlans=vlans, missing=frozenset(ALL - installed))


def run(*, stop_ms: float = 22, udp: float = 90) -> NetworkRun:
    return NetworkRun(
        kernel="6.12",
        ports=PortTimes(attach_ms=[10, 12, 99], bare_ms=[8, 10, 50], detach_ms=[3, 3, 3]),
        stops=StopTimes(
            ports=4,
            with_ports_ms=[stop_ms],
            with_vhost_ms=[60],
            without_ports_ms=[20],
            destroy_ms=[100],
        ),
        tcp_mbit=Rates(with_table=[97, 99], without_table=[100, 100]),
        udp_packets=Rates(with_table=[udp, udp], without_table=[100, 100]),
        ways={
            name: WayRates(
                tcp_mbit=[rate], tcp_cpu_s=[1 / rate], udp_packets=[rate], udp_cpu_s=[1 / rate]
            )
            for name, rate in (("offloading", 4.0), ("strict", 2.0), ("plain", 1.0))
        },
    )


def verdicts(found: NetworkRun) -> dict[str, Verdict]:
    return {one.what: one.verdict for one in figures(found) if one.goal is not None}


def test_a_kernel_that_filters_vlans_is_measured_itself_and_another_in_the_vm() -> None:
    assert program_for(facts(vlans=True)) == "bench.network.inside"
    assert program_for(facts(vlans=False)) == "bench.network.vm"


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (facts(is_root=False), "root"),
        (facts(installed=ALL - {"iperf3"}, vlans=True), r"iperf3 is not .*apt install iperf3"),
        (facts(installed=ALL - {"mksquashfs"}), "apt install squashfs-tools"),
    ],
)
def test_what_this_machine_lacks_is_named(lacking: HostFacts, said: str) -> None:
    with pytest.raises(CannotRunError, match=said):
        program_for(lacking)


def test_the_vm_brings_its_own_iperf3() -> None:
    assert program_for(facts(installed=ALL - {"iperf3", "nft"})) == "bench.network.vm"


def test_each_goal_is_judged_by_pairs_of_one_round() -> None:
    assert set(verdicts(run()).values()) == {Verdict.MET}
    (attach,) = (one for one in figures(run()) if one.what == "attach / bare calls")
    assert attach.samples == (10 / 8, 12 / 10, 99 / 50)


def test_a_stop_that_waits_for_the_taps_misses_its_goal() -> None:
    assert verdicts(run(stop_ms=120))["a stop's wait for ports / destruction"] is Verdict.MISSED


def test_a_filter_that_costs_too_much_misses_its_goal() -> None:
    assert verdicts(run(udp=84))["UDP with / without"] is Verdict.MISSED


def test_each_way_to_finish_checksums_is_compared_with_none() -> None:
    found = {one.what: one.samples for one in figures(run())}
    assert found["TCP, strict / offloading"] == found["UDP, strict / offloading"] == (0.5,)
    assert found["… CPU for a Gbit, plain"] == (4.0,)


def test_what_arrived_is_read_from_iperf3_s_report() -> None:
    assert tcp_mbit({"end": {"sum_received": {"bits_per_second": 2.5e9}}}) == 2500
    lossy = {"end": {"sum": {"packets": 30000, "lost_packets": 1000, "seconds": 2.0}}}
    assert udp_packets(lossy) == 14500
