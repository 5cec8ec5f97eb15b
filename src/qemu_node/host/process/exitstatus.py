"""How a process ended, in words: its exit status and what it said last. Pure."""

import signal

LAST_WORDS_CHARS = 600


def describe_exit(status: int) -> str:
    """Return how a process ended, as the part of a sentence after its name.

    Args:
        status: Its exit code, -N for death by signal N (`os.waitstatus_to_exitcode`).
    """
    if status < 0:
        return f"was killed by {signal_name(-status)}"
    return f"{'failed' if status else 'ended'} with exit code {status}"


def signal_name(number: int) -> str:
    """Return the name of a signal as bash's `kill -l` writes it; its number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Python names only the first and the last real-time signal (man 7 signal).
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"


def last_words(said: bytes | str) -> str:
    """Return the end of what a process has written, on one line that a terminal may show."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    line = " ".join(text.split())[-LAST_WORDS_CHARS:]
    return "".join(char if char.isprintable() else "?" for char in line)


def with_last_words(problem: str, said: bytes | str) -> str:
    """Return `problem` with the last words of the process after it, if it said anything."""
    words = last_words(said)
    return f"{problem}: {words}" if words else problem
