from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from osimage.build.stages import MAX_AGE_DAYS, Stages
from osimage.build.tree import debian
from osimage.build.tree.debian import make_base, make_tools, packages_day

_TODAY = date(2026, 11, 30)


@pytest.mark.parametrize(
    ("kept", "max_age_days", "day"),
    [
        ([], 7, _TODAY),
        (["ab-20261130"], 7, _TODAY),
        (["ab-20261123"], 7, date(2026, 11, 23)),
        (["ab-20261122"], 7, _TODAY),
        (["ab-20261124", "ab-20261128", "ab-20261126"], 7, date(2026, 11, 28)),
        (["ab-20261129"], 0, _TODAY),
        (["ab-20260101"], 365, date(2026, 1, 1)),
        # Of other packages, of before there were days, of a wrong clock, of no day at all.
        (["cd-20261128", "ab", "ab-20270101", "ab-20261399", "x-ab-20261128"], 7, _TODAY),
    ],
)
def test_the_newest_packages_that_are_not_too_old_are_used(
    kept: list[str], max_age_days: int, day: date
) -> None:
    assert packages_day(kept, "ab", _TODAY, max_age_days) == day


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "source_lines", lambda _snapshot=None: "deb x\n")
    monkeypatch.setattr(debian, "_mmdebstrap", lambda target, *_: target.mkdir())
    monkeypatch.setattr(debian, "installed", lambda _root: {"libc6": "1"})


def _made_before(entry: Path, days: int) -> Path:
    """Give an entry another day, as if it had been made then."""
    day = datetime.now(UTC).date() - timedelta(days=days)
    old = entry.with_name(f"{entry.name.rpartition('-')[0]}-{day:%Y%m%d}")
    entry.with_name(f"{entry.name}.used").rename(entry.with_name(f"{old.name}.used"))
    return entry.rename(old)


def test_packages_that_have_become_old_are_installed_anew_and_the_rest_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for make in (make_tools, lambda stages: make_base(stages, ["libc6"])):
        with Stages(tmp_path) as stages:
            old = _made_before(make(stages), MAX_AGE_DAYS)
            capsys.readouterr()
            assert make(stages) == old
            assert f"{MAX_AGE_DAYS} days old" in capsys.readouterr().err
            old = _made_before(old, MAX_AGE_DAYS + 1)
            # Another name, so that all that is made of it is made anew too.
            assert make(stages) != old
            assert "days old" not in capsys.readouterr().err


@pytest.mark.parametrize("said", [{"record": {"libc6": "1"}}, {"snapshot": "20260901T000000Z"}])
def test_packages_of_a_record_or_a_snapshot_do_not_become_old(
    said: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise AssertionError("a day counts")

    monkeypatch.setattr(debian, "_dated", fail)
    with Stages(tmp_path) as stages:
        make_base(stages, ["libc6"], **said)  # type: ignore[arg-type]
