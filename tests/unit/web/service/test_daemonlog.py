import logging

from qemu_node.web.service.daemonlog import JournalFormatter


def formatted(event: str, *, is_journal: bool = True, name: str = "a", **fields: object) -> str:
    record = logging.makeLogRecord(
        {"name": name, "levelno": logging.WARNING, "msg": event, "created": 0.0} | fields
    )
    return JournalFormatter(is_journal=is_journal).format(record)


def test_an_event_is_one_line_with_its_fields() -> None:
    said = formatted("login", name="qemu_node.audit", user="ann", peer="192.0.2.1", count=2)
    assert said == "<4>audit: login user=ann peer=192.0.2.1 count=2"
    assert formatted("x", is_journal=False) == "1970-01-01T00:00:00Z x"


def test_what_others_wrote_makes_no_second_line() -> None:
    said = formatted("login", user='ann"\n<3>audit: logout user=root\x1b[2J')
    assert "\n" not in said
    assert "\x1b" not in said
    assert said.startswith('<4>login user="ann')


def test_a_traceback_has_the_priority_on_each_line() -> None:
    try:
        raise ValueError("a\nb")  # noqa: TRY301
    except ValueError as exc:
        error = (type(exc), exc, exc.__traceback__)
    said = formatted("failed", exc_info=error)
    assert all(line.startswith("<4>") for line in said.split("\n"))


def test_a_long_name_does_not_push_other_fields_out_of_the_line() -> None:
    said = formatted("login", user="a" * 1000, peer="192.0.2.1")
    assert said.endswith("peer=192.0.2.1")
