"""Numbers as Binance writes them, a column at a time."""

from k2lib.exchange.columns import Bools, Int64s

UNIT = 10**8
_BOOLS = ("false", "true")


def decimal_text(units: int) -> str:
    """Write units of 10^-8 with all eight decimals."""
    return f"{units // UNIT}.{units % UNIT:08d}"


def decimals(units: Int64s) -> tuple[list[int], list[int]]:
    """Split units of 10^-8 into whole numbers and the rest, for `%d.%08d`."""
    whole = units // UNIT
    return whole.tolist(), (units - whole * UNIT).tolist()


def times(time_us: Int64s, *, micros: bool) -> list[int]:
    """Return times in µs, or cut to ms."""
    listed: list[int] = (time_us if micros else time_us // 1000).tolist()
    return listed


def flags(values: Bools) -> list[str]:
    """Write booleans as JSON does."""
    return [_BOOLS[value] for value in values.tolist()]
