import pytest

from qemu_node.errors import HostError
from qemu_node.vm.output.vmlogs import TaskLogs, opened_at_first_use


class Opened:
    """Counts how often logs are opened, and takes what is written."""

    def __init__(self, error: HostError | None = None) -> None:
        self.times = 0
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.closed = 0
        self._error = error

    def open(self) -> TaskLogs:
        self.times += 1
        if self._error is not None:
            raise self._error
        return TaskLogs(stdout=self.stdout.append, stderr=self.stderr.append, close=self._close)

    def _close(self) -> None:
        self.closed += 1


def test_logs_of_a_silent_vm_are_never_opened() -> None:
    opened = Opened()
    opened_at_first_use(opened.open).close()
    assert (opened.times, opened.closed) == (0, 0)


def test_both_streams_are_opened_once_and_closed() -> None:
    opened = Opened()
    logs = opened_at_first_use(opened.open)
    logs.stdout(b"a")
    logs.stderr(b"b")
    logs.stdout(b"c")
    logs.close()
    assert (opened.stdout, opened.stderr) == ([b"a", b"c"], [b"b"])
    assert (opened.times, opened.closed) == (1, 1)


def test_logs_that_cannot_be_opened_lose_what_is_written_and_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened = Opened(HostError("cannot open log directory"))
    logs = opened_at_first_use(opened.open)
    logs.stdout(b"a")
    logs.stderr(b"b")
    logs.close()
    assert opened.times == 1
    assert [record.message for record in caplog.records] == ["recovered VM is not logged"]
