"""Receiving alone, as a process: `websockets` with its defaults, msgspec, one count a trade.

Run: python -m bench.live_bare WS REST FRAMES
"""

import asyncio
import sys

import msgspec
from websockets.asyncio.client import connect

from bench.measure import SYMBOLS, Figure, measured, print_figures, wait_for_go


class _Trade(msgspec.Struct):
    e: str
    E: int
    s: str
    t: int
    p: str
    q: str
    T: int
    m: bool
    M: bool


class _Combined(msgspec.Struct):
    stream: str
    data: _Trade


async def receive(ws: str, frames: int) -> Figure:
    """Receive and decode so many trades."""
    decode = msgspec.json.Decoder(_Combined).decode
    streams = "/".join(f"{symbol.lower()}@trade" for symbol in SYMBOLS)
    async with connect(f"{ws}/stream?streams={streams}&timeUnit=MICROSECOND") as socket:
        newest = decode(await socket.recv(decode=False)).data.t
        await asyncio.to_thread(wait_for_go)
        with measured("bare websockets + msgspec", frames) as figure:
            for _ in range(frames):
                newest = max(newest, decode(await socket.recv(decode=False)).data.t)
    return figure


if __name__ == "__main__":
    print_figures(asyncio.run(receive(sys.argv[1], int(sys.argv[3]))))
