from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.output.ratelimit import TokenBucket


def test_a_full_bucket_grants_its_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    assert bucket.take(1000, now=5.0) == 400
    assert bucket.take(1000, now=5.0) == 0
    assert bucket.take(1000, now=6.5) == 150


def test_an_idle_bucket_fills_no_further_than_its_burst() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    assert bucket.available(0.0) == 400
    assert bucket.available(1e9) == 400


def test_a_clock_that_stands_or_goes_back_grants_nothing_new() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    bucket.take(400, now=10.0)
    assert bucket.available(9.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000)), max_size=30),
    st.integers(1, 1000),
    st.integers(0, 1000),
)
def test_no_more_than_burst_and_rate_ever_passes(
    steps: list[tuple[float, int]], rate: int, burst: int
) -> None:
    bucket, now, passed = TokenBucket(rate, burst), 0.0, 0
    for pause, wanted in steps:
        now += pause
        passed += bucket.take(wanted, now)
    assert passed <= burst + rate * now + 1
