"""Exact decimals in whole units: Polars rounds a product of decimals to the larger scale."""

from decimal import Decimal, localcontext
from typing import Final

import polars as pl

from k2lib.errors import QueryError

SCALE: Final = 8
TURNOVER_SCALE: Final = 16
DIGITS: Final = 38
LIMIT: Final = 10**DIGITS


def units(name: str) -> pl.Expr:
    """Return a decimal column as whole numbers of its last place."""
    return pl.col(name).to_physical().cast(pl.Int128)


def decimals(whole: pl.Expr, scale: int, *, digits: int = DIGITS) -> pl.Expr:
    """Return whole numbers of the last place as decimals."""
    return whole.reinterpret(dtype=pl.Decimal(digits, scale))


def with_turnover(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `turnover`: price times quantity, in units of 10^-16.

    Raises:
        QueryError: the sum over all rows does not fit 38 digits.
    """
    rows = rows.with_columns(turnover=units("price") * units("quantity"))
    # A sum of whole numbers wraps; one of floats shows how large it would be.
    total = rows.select(pl.col("turnover").cast(pl.Float64).abs().sum()).item()
    if total >= LIMIT * 0.99:
        raise QueryError(
            f"the turnover of these {rows.height} trades is over 10^22, more than decimal(38,16) "
            "holds: give fewer trades"
        )
    return rows


def vwap(turnover: pl.Expr, volume: pl.Expr) -> pl.Expr:
    """Divide units of turnover by units of volume, rounded half away from zero to 8 decimals.

    Returns:
        decimal(18,8); null where the volume is 0.
    """
    some = pl.when(volume != 0).then(volume)
    return decimals(turnover.sign() * ((turnover.abs() + some // 2) // some), SCALE, digits=18)


def threshold_units(name: str, threshold: int | Decimal, *, scale: int) -> int:
    """Return a threshold in whole units.

    Raises:
        QueryError: it is no whole number or decimal, not positive, too large or too fine.
    """
    if not isinstance(threshold, int | Decimal):
        raise QueryError(f"{name}={threshold!r}: give an int or a Decimal; a float is not exact")
    exact = Decimal(threshold)
    if not exact.is_finite() or not 0 < exact < 10 ** (DIGITS - scale - 1):
        raise QueryError(
            f"{name}={threshold}: give more than 0 and less than 10^{DIGITS - scale - 1}"
        )
    with localcontext(prec=2 * DIGITS):
        scaled = exact.scaleb(scale)
    if scaled != int(scaled):
        raise QueryError(f"{name}={threshold}: give at most {scale} decimals")
    return int(scaled)
