"""The lake on an Iceberg REST catalog and S3: exact, and answering as on SQLite and files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import polars as pl
import pytest
from support.api_client import api_of, asked
from support.lake_rows import at, gap, quote, rows_table, trade
from support.object_store import ObjectStore, object_store_in
from support.waiting import first

from k2lib import K2
from k2lib.errors import QueryError
from k2lib.kafka.topics import GAPS
from k2lib.schema.records import GAP, QUOTE, TRADE

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TRADES = "market.equities.trades.asx"
QUOTES = "market.equities.quotes.asx"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store_in(tmp_path_factory.mktemp("store")) as one:
        yield one


@dataclass(frozen=True)
class Both:
    """Two homes with the same records: one on files, one on the object store."""

    files: K2
    remote: K2

    def same(self, ask: Callable[[K2], pl.DataFrame]) -> pl.DataFrame:
        """Return the answer to a question, which is the same of both."""
        of_files, of_remote = ask(self.files), ask(self.remote)
        assert of_files.equals(of_remote), f"{of_files} {of_remote}"
        return of_remote


def filled(k2: K2) -> K2:
    """Commit trades three times, a quote and a gap; leave two trades in Kafka."""
    for number in range(3):
        rows = [
            trade(3 * number + one, symbol=name) for one, name in enumerate(("BHP", "CBA", "BHP"))
        ]
        k2.pipeline.produce(TRADES, rows_table(rows), TRADE)
        k2.pipeline.settle()
    k2.pipeline.produce(QUOTES, rows_table([quote(1)], "quotes_v2"), QUOTE)
    k2.pipeline.produce(GAPS, rows_table([gap("g", 1)], "gaps"), GAP)
    k2.pipeline.settle()
    k2.pipeline.produce(TRADES, rows_table([trade(9), trade(2), trade(10)]), TRADE)
    k2.pipeline.flush()
    first(lambda: k2.complete_to("trades_v2"), lambda told: told.behind == 0)
    return k2


@pytest.fixture(scope="module")
def both(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    with ExitStack() as stack:
        homes = [
            filled(
                stack.enter_context(K2.open(home=folder / name, commit_interval_s=1000, **settings))
            )
            for name, settings in (("files", {}), ("remote", store.warehouse()))
        ]
        yield Both(*homes)


QUESTIONS: dict[str, Callable[[K2], pl.DataFrame]] = {
    "lake": lambda k2: k2.trades("BHP", tail=False),
    "lake and Kafka": lambda k2: k2.trades("BHP"),
    "the last": lambda k2: k2.trades("BHP", last=2),
    "a span": lambda k2: k2.trades("BHP", start=at(2), end=at(6)),
    "quotes": lambda k2: k2.quotes("BHP"),
    "bars": lambda k2: k2.bars("BHP", every="1m"),
    "SQL": lambda k2: k2.sql("SELECT * FROM trades_v2 ORDER BY message_id"),
    "SQL of the lake": lambda k2: k2.sql("SELECT count(*) FROM lake.trades_v2"),
    "SQL of bars": lambda k2: k2.sql("SELECT * FROM bars_1m ORDER BY symbol, start"),
    "SQL of a span": lambda k2: k2.sql(
        "SELECT message_id FROM trades_v2 ORDER BY 1", start=at(3), end=at(5)
    ),
    "gaps": lambda k2: k2.sql("SELECT * FROM gaps"),
    "a former snapshot": lambda k2: k2.trades("BHP", as_of=k2.snapshots()["snapshot_id"][0]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_a_lake_in_files(both: Both, question: str) -> None:
    assert len(both.same(QUESTIONS[question])) > 0


def test_the_api_answers_from_the_bucket_and_shows_no_other_file_of_it(both: Both) -> None:
    with api_of(both.remote) as client:
        answer = asked(client, "/v1/trades", symbol="BHP")
    assert [one["message_id"] for one in answer["data"]] == both.remote.trades("BHP")[
        "message_id"
    ].to_list()
    with pytest.raises(QueryError, match="is no file of a table"):
        both.remote.sql("SELECT * FROM 's3://elsewhere/x.parquet'")
