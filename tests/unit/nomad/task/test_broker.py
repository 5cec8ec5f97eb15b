import asyncio

from qemu_node.nomad.task.broker import EventBroker, TaskName

TASK = TaskName(id="a/t/1", alloc_id="a", name="t")


async def test_events_told_before_anyone_listens_are_delivered_later() -> None:
    broker = EventBroker()
    broker.tell(TASK, "first")
    broker.tell(TASK, "second", {"percent": "50"})
    stream = broker.listen()
    async with asyncio.timeout(10):
        first, second = await anext(stream), await anext(stream)
    assert (first.message, second.message) == ("first", "second")
    assert dict(second.annotations) == {"percent": "50"}
    assert first.task_id == "a/t/1"
    assert first.alloc_id == "a"
    assert first.timestamp.seconds > 0


async def test_every_listener_gets_every_event() -> None:
    broker = EventBroker()
    streams = [broker.listen(), broker.listen()]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    broker.tell(TASK, "news")
    async with asyncio.timeout(10):
        assert [event.message for event in await asyncio.gather(*waiting)] == ["news", "news"]


async def test_a_message_is_one_line_of_bounded_length() -> None:
    broker = EventBroker()
    broker.tell(TASK, "a\nb" + "x" * 10_000)
    event = await anext(broker.listen())
    assert event.message.startswith("a b")
    assert len(event.message) <= 500


async def test_a_listener_that_never_reads_costs_bounded_memory() -> None:
    broker = EventBroker()
    stream = broker.listen()
    broker.tell(TASK, "first")
    await anext(stream)
    for n in range(5000):
        broker.tell(TASK, str(n))
    async with asyncio.timeout(10):
        event = await anext(stream)
    assert event.message == "4000"
