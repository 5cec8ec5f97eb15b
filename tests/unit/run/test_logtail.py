from pathlib import Path

from qemu_node.inventory.consolelog import ConsoleLog
from qemu_node.run.logtail import LogTail


def append(alloc_dir: Path, number: int, data: bytes) -> None:
    logs = alloc_dir / "alloc" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"a task.stdout.{number}").open("ab") as file:
        file.write(data)


def test_only_whole_lines_are_returned_and_each_once(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    assert tail.read_lines() == []
    append(tmp_path, 0, b"one\ntw")
    assert tail.read_lines() == ["one"]
    append(tmp_path, 0, b"o\r\n")
    assert tail.read_lines() == ["two"]
    assert tail.read_lines() == []


def test_reading_goes_on_over_rotations(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    append(tmp_path, 0, b"one\ntwo ")
    assert tail.read_lines() == ["one"]
    append(tmp_path, 0, b"and\n")
    append(tmp_path, 1, b"three\n")
    append(tmp_path, 2, b"four\n")
    assert tail.read_lines() == ["two and", "three", "four"]


def test_files_removed_meanwhile_are_passed_over(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    append(tmp_path, 7, b"late\n")
    assert tail.read_lines() == ["late"]


def test_files_of_other_tasks_are_not_read(tmp_path: Path) -> None:
    append(tmp_path, 0, b"")
    (tmp_path / "alloc" / "logs" / "another.stdout.0").write_text("x\n")
    (tmp_path / "alloc" / "logs" / "a task.stderr.0").write_text("x\n")
    assert LogTail(ConsoleLog(tmp_path, "a task")).read_lines() == []


def test_a_character_torn_between_two_reads_stays_whole(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    append(tmp_path, 0, "ä".encode()[:1])
    assert tail.read_lines() == []
    append(tmp_path, 0, "ä".encode()[1:] + b"\n")
    assert tail.read_lines() == ["ä"]


def test_a_line_without_end_does_not_grow_for_ever(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    append(tmp_path, 0, b"x" * 10_000)
    assert tail.read_lines() == ["x" * 10_000]


def test_flush_returns_the_last_line_without_newline(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    append(tmp_path, 0, b"one\nlogin: ")
    assert tail.flush() == ["one", "login: "]


def test_the_last_line_is_one_with_text_complete_or_not(tmp_path: Path) -> None:
    tail = LogTail(ConsoleLog(tmp_path, "a task"))
    assert tail.last_line() == ""
    append(tmp_path, 0, b"one\n two \r\n\n")
    assert tail.last_line() == "two"
    append(tmp_path, 0, b"login: ")
    append(tmp_path, 1, b"")
    assert tail.last_line() == "login:"
    append(tmp_path, 1, b"\n\n")
    assert tail.last_line() == "login:"
