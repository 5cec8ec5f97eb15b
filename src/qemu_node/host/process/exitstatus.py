"""The end of a process in words."""

import signal


def describe_exit(status: int) -> str:
    """Return how a process ended, as what follows its name in a sentence.

    Args:
        status: Its exit code, -N for death by signal N (`os.waitstatus_to_exitcode`).
    """
    if status < 0:
        return f"was killed by {signal_name(-status)}"
    return f"{'failed' if status else 'ended'} with exit code {status}"


def signal_name(number: int) -> str:
    """Return the name of a signal as `kill -l` of bash writes it, its number if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Of the real-time signals Python names the first and the last (man 7 signal).
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"
