"""What a process does that is to answer HTTP requests."""

import asyncio
import socket
import threading

from mlflow_resnet.scoring.hosting import take_requests_at_once
from mlflow_resnet.serving.server import bound_socket

REQUESTS = 50  # more than the threads that asyncio has by itself, 32 at most


def test_mlflows_server_takes_all_requests_at_once():
    together = threading.Barrier(REQUESTS)

    async def answer_all():
        await asyncio.to_thread(take_requests_at_once.__wrapped__)  # the first request, in a thread of the server
        await asyncio.gather(*(asyncio.to_thread(together.wait, 30) for _ in range(REQUESTS)))

    asyncio.run(answer_all())
    assert not together.broken


def test_short_answers_are_sent_at_once():
    found = []

    async def connect():
        async def answer(reader, writer):
            found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bound_socket("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(connect())
    (no_delay,) = found
    assert no_delay
