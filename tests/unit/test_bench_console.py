from bench.console.facts import (
    ORIGINAL,
    OURS,
    OURS_TLS,
    WEBSOCKIFY,
    WEBSOCKIFY_TLS,
    ConsoleRun,
    FleetRun,
    PageRun,
    Rates,
    RelayRun,
)
from bench.console.goals import console_figures, missing_figures, relay_figures
from bench.table import Figure, Verdict


def rates(speed: float, cpu: float) -> Rates:
    return Rates(mb_s=[speed, speed, 1.0], cpu_s_per_gb=[cpu, cpu, 9.0], processes=1)


def relay(*, missing: dict[str, str] | None = None, **more: Rates) -> RelayRun:
    known = {
        OURS: rates(500, 0.5),
        OURS_TLS: rates(300, 1.0),
        WEBSOCKIFY: rates(900, 0.6),
        WEBSOCKIFY_TLS: rates(400, 0.9),
        ORIGINAL: rates(400, 1.4),
    }
    return RelayRun(
        rates={name: one for name, one in known.items() if name not in (missing or {})},
        direct_ms=[[0.1] * 100] * 3,
        relayed_ms=[[0.3] * 99 + [1.1], [0.5] * 100, [9.0] * 100],
        missing=missing or {},
    )


def fleet(vms: int, *, page_pct: float, qemu_pct: float, pss_mib: float) -> FleetRun:
    return FleetRun(
        vms=vms,
        daemon_alone_pct=[0.2, 0.1, 0.3],
        daemon_page_pct=[page_pct] * 3,
        qemu_alone_pct=[10.0, 11.0, 12.0],
        qemu_page_pct=[11.0 + qemu_pct] * 3,
        pss_mib=pss_mib,
        pictures=12,
    )


def console(*, idle_pct: float = 0.4, many_pct: float = 3.0, qemu_pct: float = 2.0) -> ConsoleRun:
    return ConsoleRun(
        few=fleet(50, page_pct=idle_pct, qemu_pct=0, pss_mib=59),
        many=fleet(500, page_pct=many_pct, qemu_pct=qemu_pct, pss_mib=121),
        page=PageRun(
            first_view_kb=[140.0],
            pictures_kb=[60.0],
            usable_ms=[990.0],
            usable_cpu_ms=[500.0],
            update_ms=[101.0],
        ),
    )


def verdicts(found: list[Figure]) -> dict[str, Verdict]:
    return {one.what: one.verdict for one in found if one.goal is not None}


def test_relays_are_compared_round_by_round_and_with_the_same_transport() -> None:
    found = verdicts(list(relay_figures(relay())))
    assert found == {
        "ours / the original's: MB/s": Verdict.MET,
        "ours / websockify: CPU": Verdict.MET,
        "ours, TLS / websockify, TLS: CPU": Verdict.MISSED,
        "processes of ours for three viewers": Verdict.MET,
        "added p99": Verdict.MET,
    }


def test_a_relay_that_is_not_there_is_named_and_judges_nothing() -> None:
    run = relay(missing={ORIGINAL: "give --original", WEBSOCKIFY: "not installed"})
    assert "ours / the original's: MB/s" not in verdicts(list(relay_figures(run)))
    reasons = [one.reason for one in missing_figures(run)]
    assert reasons == [
        "relay, the original's: give --original",
        "relay, websockify: not installed",
    ]
    assert not any(one.is_failure for one in missing_figures(run))


def test_pictures_cost_what_an_open_page_adds_to_the_daemon_and_to_qemu() -> None:
    (pictures,) = [one for one in console_figures(console()) if one.what.startswith("pictures")]
    assert pictures.median == (3.0 - 0.2) + 2.0
    found = verdicts(list(console_figures(console(qemu_pct=2.3))))
    assert found == {
        "daemon's CPU, 50 idle VMs and a page": Verdict.MET,
        "… its Pss": Verdict.MISSED,
        "pictures of 500 VMs for a page, with QEMU": Verdict.MISSED,
        "first view of 500 VMs": Verdict.MET,
        "… usable after": Verdict.MET,
        "new figures on 500 cards, main thread": Verdict.MISSED,
    }
