"""What one moment brings in one symbol, encoded once for all who listen in the same form."""

from k2lib.exchange.columns import Trades
from k2lib.exchange.frames import Form, agg_trade_frames, quote_frame, trade_frames
from k2lib.exchange.market import Book, Quote


class Batch:
    """Trades as a stream shows them, and perhaps a new quote."""

    def __init__(self, book: Book, trades: Trades, quote: Quote | None) -> None:
        self.book = book
        self.trades = trades
        self.quote = quote
        self._encoded: dict[tuple[str, Form], bytes] = {}

    @property
    def symbol(self) -> str:
        """Whose trades they are."""
        return self.book.instrument.symbol

    def shown_as(self, trades: Trades) -> "Batch":
        """Return the batch with other trades; itself if they are the same."""
        return self if trades is self.trades else Batch(self.book, trades, self.quote)

    def frames(self, kind: str, form: Form) -> bytes:
        """Return the frames of a kind of stream in one form."""
        key = kind, form
        if key not in self._encoded:
            self._encoded[key] = _ENCODERS[kind](self, form)
        return self._encoded[key]


def _trade(batch: Batch, form: Form) -> bytes:
    return trade_frames(batch.trades, batch.book.instrument, form)


def _agg_trade(batch: Batch, form: Form) -> bytes:
    # An aggregate is told where its last trade is, so it shares the fate of that trade.
    orders = batch.book.orders_of(batch.trades)
    places = orders.id.searchsorted(batch.trades.order)
    told = orders.take(places[orders.last[places] == batch.trades.id])
    return agg_trade_frames(told, batch.book.instrument, form)


def _book_ticker(batch: Batch, form: Form) -> bytes:
    return b"" if batch.quote is None else quote_frame(batch.quote, batch.book.instrument, form)


_ENCODERS = {"trade": _trade, "aggTrade": _agg_trade, "bookTicker": _book_ticker}
