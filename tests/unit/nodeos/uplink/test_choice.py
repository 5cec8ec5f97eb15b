from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.nodeos.uplink.machines import MAC1, MAC2, MAC3, machine, nic

from qemu_node.config.uplink import UplinkConfig
from qemu_node.nodeos.uplink.choice import (
    NAME_WAIT_S,
    PROBE_WAIT_S,
    WAIT_S,
    Choice,
    Record,
    choose,
    next_record,
    seconds_to_wait,
)
from qemu_node.nodeos.uplink.nics import Machine

DEFAULT = UplinkConfig()


def boot(there: Machine, record: Record, settings: UplinkConfig = DEFAULT) -> tuple[Choice, Record]:
    choice = choose(settings, there, record)
    return choice, next_record(settings, choice, there, record)


def test_the_first_nic_by_place_gives_the_address_and_the_fastest_leads() -> None:
    choice, _ = boot(machine(nic(2, speed_mbit=10_000), nic(1, speed_mbit=1000)), Record())
    assert (choice.mac, choice.primary) == (MAC1, MAC2)
    assert [one.name for one in choice.members] == ["enp1s0", "enp2s0"]


@pytest.mark.parametrize(
    ("speeds", "primary"),
    [
        ((0, 0, 0), MAC1),
        ((1000, 10_000, 10_000), MAC2),
        ((0, 0, 100), MAC3),
        ((25_000, 0, 10_000), MAC1),
    ],
)
def test_the_fastest_leads_and_of_those_the_first_by_place(
    speeds: Sequence[int], primary: str
) -> None:
    nics = [nic(number, speed_mbit=mbit) for number, mbit in enumerate(speeds, start=1)]
    assert choose(DEFAULT, machine(*reversed(nics)), Record()).primary == primary


def test_a_late_nic_changes_neither_the_address_nor_who_leads() -> None:
    both = machine(nic(1, speed_mbit=10_000), nic(2, speed_mbit=1000))
    first, record = boot(both, Record())
    late, record = boot(machine(nic(2, speed_mbit=1000), late=(1,)), record)
    again, _ = boot(both, record)
    assert [one.mac for one in (first, late, again)] == [MAC1] * 3
    assert [one.primary for one in (first, late, again)] == [MAC1] * 3


def test_a_nic_that_does_not_tell_its_speed_in_one_boot_has_the_one_that_is_known() -> None:
    """As virtual NICs that udev has not named yet."""
    told = machine(nic(1, speed_mbit=1000), nic(2, speed_mbit=10_000))
    first, record = boot(told, Record())
    silent, record = boot(machine(nic(1), nic(2)), record)
    half, _ = boot(machine(nic(1, speed_mbit=1000), nic(2)), record)
    assert [one.primary for one in (first, silent, half)] == [MAC2] * 3


def test_an_address_that_was_chosen_while_a_nic_was_missing_stays_when_it_comes() -> None:
    _, record = boot(machine(nic(2)), Record())
    choice, _ = boot(machine(nic(1), nic(2)), record)
    assert choice.mac == MAC2


def test_a_nic_that_broke_leaves_its_address_to_the_node() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    choice, record = boot(machine(nic(2)), record)
    assert (choice.mac, choice.primary) == (MAC1, MAC2)
    assert boot(machine(nic(2)), record)[0].mac == MAC1


def test_a_nic_that_was_replaced_takes_its_address_with_it() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    choice, record = boot(machine(nic(2), nic(3)), record)
    assert choice.mac == MAC2
    assert boot(machine(nic(1), nic(2), nic(3)), record)[0].mac == MAC2


def test_a_disk_in_another_machine_gives_that_ones_address() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    assert boot(machine(nic(3)), record)[0].mac == MAC3


def test_a_card_that_is_added_changes_nothing() -> None:
    _, record = boot(machine(nic(2, speed_mbit=1000)), Record())
    choice, _ = boot(machine(nic(1), nic(2, speed_mbit=1000)), record)
    assert (choice.mac, choice.primary) == (MAC2, MAC2)


def test_nics_on_usb_and_virtual_functions_are_left_out_unless_they_are_named() -> None:
    there = machine(
        nic(1, is_usb=True, place="pci0000:00/0000:00:14.0/usb1/1-2/0"),
        nic(2, is_virtual_function=True),
        nic(3),
    )
    assert [one.mac for one in choose(DEFAULT, there, Record()).members] == [MAC3]
    named = choose(UplinkConfig(nics=(MAC1.upper(),)), there, Record())
    assert ([one.mac for one in named.members], named.mac) == ([MAC1], MAC1)


@pytest.mark.parametrize("word", [MAC2, "0000:02:00.0", "enp2*"])
def test_a_nic_is_named_by_its_address_its_place_or_its_name(word: str) -> None:
    choice = choose(UplinkConfig(nics=(word,)), machine(nic(1), nic(2)), Record())
    assert (choice.mac, choice.primary, choice.takes_all) == (MAC2, MAC2, False)


def test_settings_that_fit_no_nic_do_not_cost_the_node_its_network() -> None:
    choice = choose(UplinkConfig(nics=("eno7", "eno8")), machine(nic(1), nic(2)), Record())
    assert choice.takes_all
    assert choice.mac == MAC1
    assert choice.problems == ("no NIC of this machine is eno7 or eno8: all NICs are used",)


def test_the_address_moves_when_the_settings_give_its_nic_to_something_else() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    choice, _ = boot(machine(nic(1), nic(2)), record, UplinkConfig(nics=(MAC2,)))
    assert choice.mac == MAC2


def test_an_address_of_the_settings_is_used_and_the_recorded_one_kept_for_later() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    choice, record = boot(machine(nic(1), nic(2)), record, UplinkConfig(mac="02:00:00:00:00:AA"))
    assert choice.mac == "02:00:00:00:00:aa"
    assert boot(machine(nic(1), nic(2)), record)[0].mac == MAC1


def test_the_settings_say_who_leads_and_with_lacp_nobody_does() -> None:
    there = machine(nic(1, speed_mbit=10_000), nic(2))
    assert choose(UplinkConfig(primary="enp2s0"), there, Record()).primary == "enp2s0"
    assert choose(UplinkConfig(mode="lacp"), there, Record()).primary == ""


def test_an_address_that_the_kernel_made_up_is_nobodys() -> None:
    there = machine(nic(1, has_random_mac=True))
    choice, record = boot(there, Record())
    assert (choice.mac, choice.primary) == ("", "0000:01:00.0")
    assert record == Record()
    mixed = machine(nic(1, has_random_mac=True), nic(2))
    assert choose(DEFAULT, mixed, Record()).mac == MAC2


def test_of_two_nics_with_one_address_the_place_says_who_leads() -> None:
    twins = machine(nic(1), nic(2, mac=MAC1, speed_mbit=10_000))
    choice = choose(DEFAULT, twins, Record())
    assert (choice.mac, choice.primary) == (MAC1, "0000:02:00.0")


def test_a_machine_without_nics_says_so() -> None:
    choice, record = boot(machine(), Record())
    assert choice == Choice(problems=("this machine has no NIC that can be used",))
    assert record == Record()


@pytest.mark.parametrize("settings", [DEFAULT, UplinkConfig(nics=("enp1s0", "enp2s0"))])
def test_a_later_boot_whose_nics_are_all_late_is_in_order(settings: UplinkConfig) -> None:
    first, record = boot(machine(nic(1), nic(2)), Record(), settings)
    choice, again = boot(machine(late=(1, 2)), record, settings)
    assert choice.problems == ()
    assert (choice.mac, choice.primary) == (first.mac, first.primary)
    assert choice.takes_all == first.takes_all
    assert again.nics == record.nics


@pytest.mark.parametrize(
    ("there", "wait_s"),
    [
        (machine(nic(1), nic(2)), 0.0),
        (machine(nic(1), late=(2,)), PROBE_WAIT_S),
        (machine(nic(1), late=(2,), has_driver=False), WAIT_S),
        (machine(), WAIT_S),
        (machine(nic(1), nic(2, name="eth1", has_final_name=False)), NAME_WAIT_S),
    ],
)
def test_the_first_boot_waits_for_controllers_that_are_there(there: Machine, wait_s: float) -> None:
    assert seconds_to_wait(DEFAULT, there, Record()) == wait_s


def test_a_later_boot_waits_for_no_nic_that_it_knows() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    assert seconds_to_wait(DEFAULT, machine(nic(2), late=(1,)), record) == 0
    assert seconds_to_wait(DEFAULT, machine(late=(1, 2)), record) == 0
    assert seconds_to_wait(DEFAULT, machine(), record) == 0


def test_a_later_boot_waits_for_a_new_card_and_before_it_gives_up_the_address() -> None:
    _, record = boot(machine(nic(1), nic(2)), Record())
    assert seconds_to_wait(DEFAULT, machine(nic(1), nic(2), late=(3,)), record) == PROBE_WAIT_S
    assert seconds_to_wait(DEFAULT, machine(nic(2), nic(3), late=(1,)), record) == PROBE_WAIT_S


def test_a_controller_that_never_gets_a_nic_is_waited_for_once() -> None:
    there = machine(nic(1), late=(2,))
    _, record = boot(there, Record())
    assert seconds_to_wait(DEFAULT, there, record) == 0


@given(st.permutations([1, 2, 3]), st.lists(st.sets(st.sampled_from([1, 2, 3])), max_size=6))
def test_whatever_comes_late_in_later_boots_address_and_leader_stay(
    order: list[int], late: list[set[int]]
) -> None:
    speeds = {1: 1000, 2: 10_000, 3: 10_000}
    nics = {number: nic(number, speed_mbit=speeds[number]) for number in order}
    _, record = boot(machine(*nics.values()), Record())
    for missing in late:
        there = [nics[number] for number in order if number not in missing]
        choice, record = boot(machine(*there, late=tuple(missing)), record)
        assert (choice.mac, choice.primary) == (MAC1, MAC2)
