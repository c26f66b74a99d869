"""Base and quote asset come from the venue or the shipped table, never from the name."""

import json

import pytest

from k2lib.errors import ConfigError, RecordError
from k2lib.venues.base import Instrument
from k2lib.venues.binance.instruments import (
    SHIPPED,
    read_assets,
    read_exchange_info,
    shipped_instruments,
)


def body(**status: str) -> bytes:
    """Return a reply of exchangeInfo: symbol, its assets split in the middle, its status."""
    symbols = [
        {
            "symbol": name,
            "status": said,
            "baseAsset": name[:3],
            "quoteAsset": name[3:],
            "filters": [{"filterType": "PRICE_FILTER"}],
            "permissions": [],
        }
        for name, said in status.items()
    ]
    return json.dumps({"timezone": "UTC", "rateLimits": [], "symbols": symbols}).encode()


def test_instruments_are_read_as_listed_and_in_the_order_asked() -> None:
    found = read_exchange_info(body(BTCUSDT="TRADING", ETHBTC="TRADING"), ["ETHBTC", "BTCUSDT"])
    assert list(found.values()) == [
        Instrument("BINANCE", "ETHBTC", "ETH", "BTC", listed=True),
        Instrument("BINANCE", "BTCUSDT", "BTC", "USDT", listed=True),
    ]


def test_an_unknown_symbol_is_an_error_that_names_the_nearest() -> None:
    listed = body(BTCUSDT="TRADING", ETHUSDT="TRADING", ADAEUR="TRADING")
    with pytest.raises(ConfigError, match=r"^Binance has no symbol BTCUSD \(near: BTCUSDT"):
        read_exchange_info(listed, ["ADAEUR", "BTCUSD"])


def test_a_symbol_in_lower_case_is_unknown_and_near_to_itself() -> None:
    with pytest.raises(ConfigError, match=r"no symbol btcusdt \(near: BTCUSDT\)"):
        read_exchange_info(body(BTCUSDT="TRADING"), ["btcusdt"])


def test_a_symbol_like_no_other_is_named_alone() -> None:
    with pytest.raises(ConfigError, match=r"^Binance has no symbol QQQQQQ$"):
        read_exchange_info(body(BTCUSDT="TRADING"), ["QQQQQQ"])


@pytest.mark.parametrize("status", ["HALT", "BREAK", "CANCEL_ONLY"])
def test_a_symbol_that_is_not_trading_refuses_no_other(status: str) -> None:
    listed = body(BTCUSDT="TRADING", LUNUSDT=status)
    found = read_exchange_info(listed, ["BTCUSDT", "LUNUSDT"])
    assert [(one.symbol, one.halted) for one in found.values()] == [
        ("BTCUSDT", ""),
        ("LUNUSDT", status),
    ]


def test_symbols_of_which_none_is_trading_are_an_error() -> None:
    listed = body(BTCUSDT="TRADING", LUNUSDT="HALT", UNIUSDT="BREAK")
    with pytest.raises(ConfigError, match="not trading now: LUNUSDT is HALT, UNIUSDT is BREAK; "):
        read_exchange_info(listed, ["LUNUSDT", "UNIUSDT"])


def test_a_symbol_that_nobody_asked_for_may_be_halted() -> None:
    assert list(read_exchange_info(body(BTCUSDT="TRADING", X="HALT"), ["BTCUSDT"])) == ["BTCUSDT"]


@pytest.mark.parametrize(
    "reply", [b"", b"<html>", b"[]", b"{}", b'{"code":-1121,"msg":"Invalid symbol."}', b"\xff"]
)
def test_another_reply_is_no_exchange_info(reply: bytes) -> None:
    with pytest.raises(RecordError, match="no exchangeInfo"):
        read_exchange_info(reply, ["BTCUSDT"])


def test_the_shipped_table_says_that_it_is_not_the_venue() -> None:
    found = shipped_instruments(["ETHBTC", "BTCUSDT"])
    assert found == {
        "ETHBTC": Instrument("BINANCE", "ETHBTC", "ETH", "BTC", listed=False),
        "BTCUSDT": Instrument("BINANCE", "BTCUSDT", "BTC", "USDT", listed=False),
    }


def test_the_shipped_table_is_consistent() -> None:
    assert len(SHIPPED) >= 30
    assert all("".join(assets) == name for name, assets in SHIPPED.items())


def test_a_symbol_outside_the_shipped_table_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match="base and quote asset of WIFUSDT are not known"):
        shipped_instruments(["BTCUSDT", "WIFUSDT"])


def test_assets_are_read_as_a_person_writes_them() -> None:
    assert read_assets(["wif/usdt", "BTC/FDUSD"]) == {
        "WIFUSDT": Instrument("BINANCE", "WIFUSDT", "WIF", "USDT"),
        "BTCFDUSD": Instrument("BINANCE", "BTCFDUSD", "BTC", "FDUSD"),
    }


@pytest.mark.parametrize("text", ["WIFUSDT", "WIF/", "/USDT", "A/B/C", "", "WIF USDT"])
def test_what_is_no_pair_of_assets_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="is no pair of assets: give it as BASE/QUOTE"):
        read_assets([text])
