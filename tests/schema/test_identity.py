"""Identity: the values of the contract, and one way to them by record and by column."""

import uuid
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.schema.identity import NAMESPACE, message_id, message_ids
from k2lib.venues.asx.rows import parse
from k2lib.venues.base import Instrument
from k2lib.venues.csv_lines import find_lines

CONTRACT = {
    "BINANCE|BTCUSDT|4000000000": "46a9b5c1-e348-5ccd-b634-d6b9a420110a",
    "ASX|BHP|2014-03-10|07:57:14.754|3666700000|2000000000000|3|X||0": (
        "b59a418f-8cc6-5020-93a1-a5b1ac0169bc"
    ),
    "ASX|Q|BHP|2014-03-10|05:43:45.676|3770000000|30000000000|||0": (
        "89da9b03-e5bf-5329-9be9-5e9c68ee2171"
    ),
    "ASX|R|7078|BHP|BHP BILLITON LTD|AU000000BHP4|05/07/2008|03/31/2014": (
        "ccb77c4a-63ce-58a4-8907-c57bb9f2c7b8"
    ),
}
BHP = Instrument("ASX", "BHP", company_id="7078", isin="AU000000BHP4")


def test_the_namespace_is_that_of_the_contract() -> None:
    assert uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2") == NAMESPACE


@pytest.mark.parametrize("text", CONTRACT)
def test_an_identity_text_has_the_message_id_of_the_contract(text: str) -> None:
    assert message_id(*text.split("|")) == CONTRACT[text]


@pytest.mark.parametrize(
    ("kind", "line", "text"),
    [
        (
            "trades",
            b"03/10/2014,07:57:14.754,36.667,20000,3,X,\n",
            "ASX|BHP|2014-03-10|07:57:14.754|3666700000|2000000000000|3|X||0",
        ),
        (
            "quotes",
            b"03/10/2014,05:43:45.676,37.7,0.0,300,0\n",
            "ASX|Q|BHP|2014-03-10|05:43:45.676|3770000000|30000000000|||0",
        ),
    ],
)
def test_a_line_of_the_file_has_the_message_id_of_the_contract(
    kind: str, line: bytes, text: str
) -> None:
    parsed = parse(
        find_lines(line), kind, instrument=BHP, ingested=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert parsed.rows["message_id"].to_pylist() == [CONTRACT[text]]
    prefix = {"trades": "ASX-", "quotes": "ASX-Q-"}[kind]
    assert parsed.rows[f"{kind[:-1]}_id"].to_pylist() == [prefix + CONTRACT[text]]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80), max_size=50))
def test_ids_by_column_are_those_of_the_standard_library(texts: list[str]) -> None:
    ids = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(
        message_ids(pl.col("text"))
    )
    assert ids.to_series().to_list() == [str(uuid.uuid5(NAMESPACE, text)) for text in texts]
