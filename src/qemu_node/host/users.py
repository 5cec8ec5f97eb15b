"""Users of this host, and what runs as them.

Owns finding processes by their user. Does not own which users there are (`vm.directory`).
"""

from pathlib import Path


def pids_of_users(uids: range) -> set[int]:
    """Return the processes that run as one of `uids`; zombies, which do nothing any more, do not.

    Looks into every process: not for every tick.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "status").read_text(errors="replace")
            except OSError:
                continue
            fields = dict(line.partition(":")[::2] for line in text.splitlines())
            # Real, effective, saved and file system uid (man 5 proc_pid_status).
            if int(fields["Uid"].split()[1]) in uids and fields["State"].split()[0] not in "ZX":
                found.add(int(entry.name))
    return found
