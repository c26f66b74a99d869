"""What a live view draws: a fixed number of the newest looks at a feed."""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from k2lib.feed.status import FeedStatus

Floats = npt.NDArray[np.float64]
NOTHING: Final = float("nan")
SERIES: Final = ("price", "trades_per_s", "lag_ms")


class History:
    """The last `length` looks: times, and for each symbol price, trades per second and lag."""

    def __init__(self, symbols: Sequence[str], *, length: int) -> None:
        self.symbols = tuple(symbols)
        self._trades: dict[str, int] = {}
        self._times: deque[float] = deque(maxlen=length)
        self._values = {
            (symbol, name): deque[float](maxlen=length) for symbol in symbols for name in SERIES
        }

    def __len__(self) -> int:
        return len(self._times)

    def add(self, status: FeedStatus) -> None:
        """Take a look; a symbol of which nothing came since the last look has no lag."""
        self._times.append(status.at.timestamp() * 1000)
        for one in status.symbols:
            came = one.lag_s is not None and self._trades.get(one.symbol) != one.trades
            self._trades[one.symbol] = one.trades
            price = NOTHING if one.last_price is None else float(one.last_price)
            lag_ms = one.lag_s * 1000 if came and one.lag_s is not None else NOTHING
            for name, value in zip(SERIES, (price, one.trades_per_s, lag_ms), strict=True):
                self._values[one.symbol, name].append(value)

    def times_ms(self) -> Floats:
        """Return when the looks were taken, in milliseconds since the epoch."""
        return np.array(self._times)

    def until(self) -> datetime:
        """Return when the newest look was taken."""
        return datetime.fromtimestamp(self._times[-1] / 1000, UTC)

    def series(self, symbol: str, name: str) -> Floats:
        """Return one of `SERIES` of a symbol, NaN where there was nothing."""
        return np.array(self._values[symbol, name])
