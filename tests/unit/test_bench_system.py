import pytest

from bench import system
from bench.rig.node import CannotRunError
from bench.setting import Setting
from bench.table import Verdict


async def test_without_an_image_the_bench_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(system.OUTPUT_ENV, raising=False)
    with pytest.raises(CannotRunError, match="make iso"):
        await system.measure(Setting(nomad=None, original_dir=None))


@pytest.mark.parametrize(
    ("nomad_s", "memory_mib", "expected"),
    [(39.0, 450.0, Verdict.MET), (39.5, 450.5, Verdict.MISSED)],
)
def test_nomad_is_judged_by_debians_login_of_the_same_round(
    nomad_s: float, memory_mib: float, expected: Verdict
) -> None:
    run = system.SystemRun(
        debian_login_s=(30.0,),
        node_login_s=(25.0,),
        nomad_s=(nomad_s,),
        memory_mib=(memory_mib,),
    )
    judged = [figure.verdict for figure in system.figures(run) if figure.goal is not None]
    assert judged == [expected, expected]
