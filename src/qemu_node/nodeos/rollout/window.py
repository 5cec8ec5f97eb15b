"""Whether a maintenance window is open: pure. `config.nodeos` reads one."""

import datetime

from qemu_node.config.nodeos import Window

_DAY_MIN = 24 * 60


def is_open(window: Window, now: datetime.datetime) -> bool:
    """Tell whether `window` is open at `now`, in the time zone of `now`.

    Compared by the clock on the wall: when that is changed for the summer, the window is an hour
    shorter or longer.
    """
    minute = now.hour * 60 + now.minute
    # It began today, or on a day before and goes on.
    return any(
        (now.weekday() - back) % 7 in window.days
        and window.start_min <= minute + back * _DAY_MIN < window.start_min + window.length_min
        for back in (0, 1)
    )
