from qemu_node.web.access.session.pace import BURST, PER_S, Pace


def test_a_burst_may_happen_and_then_so_much_in_a_second() -> None:
    pace = Pace()
    assert sum(pace.take(0.0) for _ in range(1000)) == BURST
    assert sum(pace.take(1.0) for _ in range(1000)) == PER_S
    assert sum(pace.take(1000.0) for _ in range(1000)) == BURST


def test_a_clock_that_goes_back_gives_nothing() -> None:
    pace = Pace()
    assert sum(pace.take(10.0) for _ in range(1000)) == BURST
    assert not pace.take(0.0)
