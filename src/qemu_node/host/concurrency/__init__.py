"""asyncio: tasks with an owner, cancellation, threads, loops that go on after an error."""
