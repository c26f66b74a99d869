"""Venues: addresses are checked, and no host passes for another exchange's."""

import ssl

import pytest

from k2lib.errors import ConfigError
from k2lib.venues.binance.hosts import exchange_of
from k2lib.venues.binance.venue import binance, binance_us


def test_binance_has_its_own_hosts() -> None:
    venue = binance()
    assert venue.exchange == "BINANCE" and len(venue.stream_hosts) == 3
    assert all(url.startswith("wss://") for url in venue.stream_hosts)
    assert all(url.startswith("https://") for url in venue.request_hosts)


def test_binance_us_is_another_exchange() -> None:
    assert binance_us().exchange == "BINANCEUS"


def test_certificates_are_verified() -> None:
    tls = binance().tls
    assert tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname


@pytest.mark.parametrize(
    ("url", "exchange"),
    [
        ("wss://stream.binance.com:9443", "BINANCE"),
        ("wss://data-stream.binance.vision", "BINANCE"),
        ("https://api.binance.us", "BINANCEUS"),
        ("wss://stream.testnet.binance.vision", "BINANCE_TESTNET"),
        ("wss://demo-stream.binance.com", "BINANCE_DEMO"),
        ("https://demo-api.binance.com", "BINANCE_DEMO"),
        ("ws://127.0.0.1:9443", "BINANCE"),
        ("wss://notbinance.us", "BINANCE"),
    ],
)
def test_an_address_tells_whose_it_is(url: str, exchange: str) -> None:
    assert exchange_of(url) == exchange
    assert exchange_of(url, "BINANCE_SIM") == "BINANCE_SIM"


def test_hosts_of_two_exchanges_are_refused() -> None:
    with pytest.raises(ConfigError, match="different venues"):
        binance(["wss://stream.binance.us:9443"], ["https://api.binance.com"])


@pytest.mark.parametrize(
    "url",
    [
        *("", "stream.binance.com", "https://stream.binance.com", "wss://", "wss://x:notaport"),
        *("wss://x:0", "wss://x:99999", "wss://[::1", "wss://x/stream?streams=a", "wss://x#a"),
    ],
)
def test_what_is_no_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match=r"K2_BINANCE_WS_URLS=.*wss://host:port"):
        binance([url], ["https://api.binance.com"])


def test_both_kinds_of_address_are_needed() -> None:
    with pytest.raises(ConfigError, match="need an address each"):
        binance([], ["https://api.binance.com"])


def test_addresses_are_trimmed() -> None:
    venue = binance([" ws://127.0.0.1:1/ "], ["http://127.0.0.1:2/"])
    assert (venue.stream_hosts, venue.request_hosts) == (
        ("ws://127.0.0.1:1",),
        ("http://127.0.0.1:2",),
    )


def test_a_venue_takes_the_name_its_host_gives_itself() -> None:
    venue = binance()
    assert venue.named("BINANCE") is venue
    named = venue.named("BINANCE_SIM")
    assert (named.exchange, named.tls) == ("BINANCE_SIM", venue.tls)
