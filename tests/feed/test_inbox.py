"""The inbox: a full one makes the sender wait, and nothing is lost on the way."""

import asyncio
import threading
import time
from collections.abc import Iterable

from support.waiting import wait_until

from k2lib.feed.connections import Inbox


def put_all(inbox: Inbox, frames: Iterable[bytes]) -> None:
    async def run() -> None:
        for frame in frames:
            await inbox.put(frame, "wss://one")

    asyncio.run(run())


def take(inbox: Inbox, timeout_s: float = 5.0, enough: int = 1) -> list[bytes]:
    return inbox.take(timeout_s, linger_s=0.0, enough=enough).frames


def test_frames_come_out_in_order_with_host_and_receipt() -> None:
    inbox, before_us = Inbox(10), time.time_ns() // 1000
    put_all(inbox, [b"a", b"b"])
    arrived = inbox.take(5.0, linger_s=0.0, enough=1)
    assert (arrived.frames, arrived.hosts) == ([b"a", b"b"], ["wss://one"] * 2)
    assert before_us <= arrived.received_us[0] <= arrived.received_us[1]
    assert len(inbox) == 0


def test_nothing_arrives_within_the_timeout() -> None:
    assert Inbox(10).take(0.01, linger_s=0.0, enough=1).frames == []


def test_a_full_inbox_makes_the_sender_wait_and_counts_it() -> None:
    inbox = Inbox(2)
    sender = threading.Thread(target=put_all, args=(inbox, [b"%d" % i for i in range(5)]))
    sender.start()
    wait_until(lambda: inbox.waited_s > 0.05)
    assert len(inbox) == 2
    came: list[bytes] = []
    while len(came) < 5:
        came += take(inbox)
    sender.join()
    assert came == [b"0", b"1", b"2", b"3", b"4"]


def test_two_senders_do_not_pass_the_limit_together() -> None:
    inbox, held, came = Inbox(3), list[int](), list[bytes]()

    async def send(name: bytes) -> None:
        for _ in range(200):
            await inbox.put(name, "wss://one")
            held.append(len(inbox))

    async def run() -> None:
        await asyncio.gather(send(b"a"), send(b"b"))

    sender = threading.Thread(target=lambda: asyncio.run(run()))
    sender.start()
    while len(came) < 400:
        came += take(inbox)
    sender.join()
    assert max(held) <= 3
    assert (came.count(b"a"), came.count(b"b")) == (200, 200)


def test_it_is_behind_until_what_was_taken_is_dealt_with() -> None:
    inbox = Inbox(10)
    assert inbox.behind_s == 0.0
    put_all(inbox, [b"a"])
    wait_until(lambda: inbox.behind_s > 0.02)
    take(inbox)
    wait_until(lambda: inbox.behind_s > 0.05)
    take(inbox, 0.0)
    assert inbox.behind_s == 0.0
