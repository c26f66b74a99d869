"""ASX files: which files a path means, reading in chunks, reference data, corporate actions."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lib import K2
from k2lib.errors import SourceError
from k2lib.schema.records import REFERENCE, TRADE
from k2lib.venues.asx.files import AsxFile, file_kind, find_files, read_file
from k2lib.venues.asx.reference import find_reference, read_corporate_actions, read_reference
from k2lib.venues.base import FileBatch, Instrument

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
XYZ = Instrument("ASX", "XYZ", company_id="9009", isin="AU000000XYZ9")
HEADER = "company_id,symbol,company_name,ISIN,start_date,end_date\n"
XYZ_LINE = "9009,XYZ,XYZ MINING LTD,AU000000XYZ9,05/07/2008,03/31/2014\n"
TRADE_LINE = "03/10/2014,10:00:06.717,1.11,3667,0,,\n"
QUOTE_LINE = "03/10/2014,10:00:06.717,1.11,1.18,10300,3667\n"


def trade(millisecond: int, volume: int = 1) -> str:
    """Return a trade's line so many milliseconds after ten."""
    seconds, rest = divmod(millisecond, 1000)
    return f"03/10/2014,10:00:{seconds:02d}.{rest:03d},1.11,{volume},0,,\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reference(folder: Path, text: str = HEADER + XYZ_LINE) -> Path:
    """Write the reference data of a folder of files; return their folder."""
    return write(folder / "reference-data" / "company_info.csv", text).parent


def batches(paths: Sequence[Path], chunk_bytes: int = 1 << 20) -> list[FileBatch]:
    return list(read_file(AsxFile(tuple(paths)), XYZ, ingested=NOW, chunk_bytes=chunk_bytes))


def rows(found: list[FileBatch]) -> pa.Table:
    return pa.concat_tables([TRADE.arrow.empty_table(), *(batch.rows for batch in found)])


def letters(found: list[FileBatch]) -> list[tuple[str, str]]:
    return [(one.source, one.position) for batch in found for one in batch.dead_letters]


def names(files: list[AsxFile]) -> list[str]:
    return [file.name for file in files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with two companies' files and reference data."""
    for name in ("trades/9009.csv", "trades/9010.csv"):
        write(tmp_path / name, TRADE_LINE)
    write(tmp_path / "quotes" / "9009.csv", QUOTE_LINE)
    write(tmp_path / "notes.txt", "not a csv file")
    reference(tmp_path)
    return tmp_path


def test_a_folder_means_its_csv_files_reference_data_apart(tree: Path) -> None:
    assert names(find_files([tree])) == ["quotes/9009.csv", "trades/9009.csv", "trades/9010.csv"]


def test_a_glob_means_what_it_matches(tree: Path) -> None:
    assert names(find_files([tree / "*" / "9009.csv"])) == ["quotes/9009.csv", "trades/9009.csv"]
    assert names(find_files([tree / "**" / "*9010*"])) == ["trades/9010.csv"]


def test_a_relative_glob_means_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert names(find_files(["trades/*.csv"])) == ["trades/9009.csv", "trades/9010.csv"]


def test_a_file_named_twice_is_one(tree: Path) -> None:
    path = tree / "trades" / "9009.csv"
    assert find_files([path, tree / "trades", path])[0] == AsxFile((path,))
    assert len(find_files([path, tree / "trades", path])) == 2


def test_what_matches_nothing_stays_to_be_reported(tmp_path: Path) -> None:
    missing = [tmp_path / "9009.csv", tmp_path / "*.csv", tmp_path]
    assert [file.paths for file in find_files(missing)] == [(path,) for path in missing]


def test_parts_are_the_files_of_one_company_in_folders_of_one_name(tree: Path) -> None:
    for name in ("later/trades/9009.csv", "later/trades/9009-afternoon.csv"):
        write(tree / name, TRADE_LINE)
    assert names(find_files([tree], parts=True)) == [
        "trades/9009-afternoon.csv + trades/9009.csv + trades/9009.csv",
        "quotes/9009.csv",
        "trades/9010.csv",
    ]


def test_parts_without_a_company_id_stay_apart(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, TRADE_LINE)
    assert len(find_files([tmp_path], parts=True)) == 2


@pytest.mark.parametrize(("name", "company_id"), [("9009.csv", "9009"), ("0042-a.csv", "0042")])
def test_the_company_id_is_what_the_name_begins_with(name: str, company_id: str) -> None:
    assert AsxFile((Path("trades") / name,)).company_id == company_id


def test_a_name_without_company_id_is_refused() -> None:
    with pytest.raises(SourceError, match=r"trades/XYZ\.csv: the name must begin with the company"):
        _ = AsxFile((Path("trades/XYZ.csv"),)).company_id


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("\n\n\r\n", "the file is empty"),
        ("a,b,c\nd,e,f\n", "3 columns; trades have 7, quotes have 6"),
    ],
)
def test_a_file_of_neither_kind_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path / "trades" / "9009.csv", text)
    with pytest.raises(SourceError, match=rf"^trades/9009\.csv: {told}$"):
        file_kind(AsxFile((path,)))


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"/9009\.csv: cannot be read: No such file"):
        file_kind(AsxFile((tmp_path / "9009.csv",)))
    with pytest.raises(SourceError, match=rf"{tmp_path.name}: no \.csv file in this folder"):
        file_kind(AsxFile((tmp_path,)))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a,b\n\n\n\n\n" + QUOTE_LINE * 2 + TRADE_LINE, "quotes"),
        (TRADE_LINE + "a,b,c\n", "trades"),
        (QUOTE_LINE + "a,b,c\n" * 50, "quotes"),
        (TRADE_LINE * 5 + TRADE_LINE.replace(",\n", "\n") * 5, "trades"),
        (QUOTE_LINE * 5 + QUOTE_LINE.replace("10300", "x") * 9, "quotes"),
        (TRADE_LINE.replace("1.11", "x"), "trades"),
    ],
)
def test_the_kind_is_that_of_most_good_lines(tmp_path: Path, text: str, kind: str) -> None:
    assert file_kind(AsxFile((write(tmp_path / "9009.csv", text),))) == kind


def test_as_many_bad_lines_as_good_ones_cost_these_lines_only(tmp_path: Path) -> None:
    found = batches([write(tmp_path / "9009.csv", (TRADE_LINE + "a,b,c\n") * 20)])
    assert (rows(found).num_rows, len(letters(found))) == (20, 20)


def test_a_line_that_the_beginning_cuts_does_not_tell_the_kind(tmp_path: Path) -> None:
    text = TRADE_LINE + TRADE_LINE.replace(",0,", f",{'x' * 70_000},")
    assert file_kind(AsxFile((write(tmp_path / "9009.csv", text),))) == "trades"


def test_parts_must_all_be_there_and_of_one_kind(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "9009.csv", TRADE_LINE)
    second = write(tmp_path / "b" / "9009.csv", QUOTE_LINE)
    with pytest.raises(SourceError, match=r"parts of one file are of one kind, not trades, quotes"):
        batches([first, second])
    with pytest.raises(SourceError, match=r"c/9009\.csv: cannot be read"):
        batches([first, tmp_path / "c" / "9009.csv"])


@pytest.mark.parametrize("chunk_bytes", [1, 50, 100, 333, 1000, 1 << 20])
def test_chunks_change_nothing(tmp_path: Path, chunk_bytes: int) -> None:
    text = "".join(trade(n // 4, n % 3) for n in range(60))
    path = write(tmp_path / "9009.csv", text)
    assert rows(batches([path], chunk_bytes)).equals(rows(batches([path])))


def test_chunks_bound_what_is_read_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "9009.csv", "".join(trade(n) for n in range(200)))
    found = batches([path], 500)
    assert len(found) > 10
    assert sum(batch.n_bytes for batch in found) == path.stat().st_size
    assert max(batch.n_bytes for batch in found) < 1100


def test_a_millisecond_longer_than_a_chunk_is_numbered_over_all_of_it(tmp_path: Path) -> None:
    text = trade(0) + trade(1, 5) * 40 + trade(2) + trade(3)
    path = write(tmp_path / "9009.csv", text)
    found = rows(batches([path], 100))
    assert found.equals(rows(batches([path])))
    assert found["platform_sequence"].to_pylist() == [0, *range(40), 0, 0]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), max_size=40),
    st.integers(1, 300),
    st.sampled_from(["", "\n", "broken\n", "x,y\r\n"]),
)
@settings(max_examples=50)
def test_any_order_of_times_reads_as_if_whole(
    tmp_path_factory: pytest.TempPathFactory,
    trades: list[tuple[int, int]],
    chunk_bytes: int,
    between: str,
) -> None:
    text = TRADE_LINE + between.join(trade(*one) for one in trades)
    path = write(tmp_path_factory.mktemp("any") / "9009.csv", text)
    whole, chunked = batches([path]), batches([path], chunk_bytes)
    assert rows(chunked).equals(rows(whole))
    assert letters(chunked) == letters(whole)
    assert len(set(rows(chunked)["message_id"].to_pylist())) == 1 + len(trades)


def test_a_file_out_of_time_order_numbers_equal_rows_over_all_of_it(tmp_path: Path) -> None:
    text = "".join(trade(n) for n in range(50)) + trade(0) + "broken\n" + trade(49)
    path = write(tmp_path / "9009.csv", text)
    found = batches([path], 200)
    assert len(set(rows(found)["message_id"].to_pylist())) == 52
    assert letters(found) == [("9009.csv", "line 52")]


@pytest.mark.parametrize(
    "text",
    ["".join(trade(n) for n in range(90)) + trade(0), trade(0, 5) * 90],
    ids=["out of order", "one millisecond"],
)
def test_what_must_be_counted_whole_is_refused_above_a_limit(tmp_path: Path, text: str) -> None:
    file = AsxFile((write(tmp_path / "trades" / "9009.csv", text),))
    for limit in (len(text), len(text) // 2):
        read = read_file(file, XYZ, ingested=NOW, chunk_bytes=200, counted_bytes=limit)
        if limit == len(text):
            assert rows(list(read)).num_rows == text.count("\n")
        else:
            with pytest.raises(
                SourceError, match=r"9009\.csv: its lines are not in time order, and"
            ):
                list(read)


def test_dead_letters_name_file_and_line_whatever_the_chunk(tmp_path: Path) -> None:
    text = "".join(trade(n) + "broken\n" * (n % 10 == 0) for n in range(40))
    path = write(tmp_path / "9009.csv", text)
    assert letters(batches([path], 150)) == [("9009.csv", f"line {n}") for n in (2, 13, 24, 35)]


def parts_of(tmp_path: Path, *texts: str) -> list[Path]:
    return [write(tmp_path / f"{n}" / "9009.csv", text) for n, text in enumerate(texts)]


@pytest.mark.parametrize("chunk_bytes", [60, 1 << 20])
def test_parts_are_read_as_one_file(tmp_path: Path, chunk_bytes: int) -> None:
    first, second = "".join(map(trade, range(9))) + trade(9) * 2, trade(9) * 3 + trade(10)
    parts = parts_of(tmp_path, first.removesuffix("\n"), second)
    whole = write(tmp_path / "9009.csv", first + second)
    assert rows(batches(parts, chunk_bytes)).equals(rows(batches([whole])))


@pytest.mark.parametrize("chunk_bytes", [60, 1 << 20])
def test_a_bad_line_is_named_by_its_part(tmp_path: Path, chunk_bytes: int) -> None:
    first = write(tmp_path / "9009-a.csv", trade(0) * 3 + "broken")
    second = write(tmp_path / "9009-b.csv", trade(1) + "broken\n" + trade(2))
    found = batches([first, second], chunk_bytes)
    assert letters(found) == [("9009-a.csv", "line 4"), ("9009-b.csv", "line 2")]


def test_parts_out_of_order_lose_nothing(tmp_path: Path) -> None:
    later, earlier = "".join(map(trade, range(20, 40))), "".join(map(trade, range(20)))
    found = batches(parts_of(tmp_path, later, earlier), 100)
    wanted = rows(batches(parts_of(tmp_path / "again", earlier, later)))
    assert set(rows(found)["message_id"].to_pylist()) == set(wanted["message_id"].to_pylist())
    assert rows(found).num_rows == 40


@pytest.fixture
def k2(tmp_path: Path) -> Iterator[K2]:
    with K2.open(home=tmp_path / "home", commit_interval_s=0.2) as opened:
        yield opened


@pytest.mark.slow
def test_of_equal_rows_the_lake_holds_the_largest_number_of_one_file(
    tmp_path: Path, k2: K2
) -> None:
    monday = [trade(0, 7) * 3 + trade(1), trade(0, 7) * 2 + trade(2), trade(0, 7)]
    for number, text in enumerate(monday):
        write(tmp_path / f"{number}" / "9009.csv", text)
    reference(tmp_path)
    reports = k2.load_asx(sorted(tmp_path.glob("[0-9]"))).files
    there = [report.already_there for report in reports if report.kind == "trades"]
    assert there == [0, 2, 1]
    kept = k2.trades("XYZ").group_by("quantity").len().sort("quantity").rows()
    assert kept == [(Decimal(1), 2), (Decimal(7), 3)]


def test_parts_that_split_a_millisecond_keep_all_of_it(tmp_path: Path, k2: K2) -> None:
    for name, count in (("9009-a.csv", 3), ("9009-b.csv", 2)):
        write(tmp_path / "trades" / name, trade(0, 7) * count)
    reference(tmp_path)
    report = k2.load_asx(tmp_path / "trades", parts=True).files[0]
    assert (report.rows, report.already_there) == (5, 0)
    assert k2.trades("XYZ")["quantity"].to_list() == [Decimal(7)] * 5


def test_companies_become_rows(tmp_path: Path) -> None:
    data = read_reference(reference(tmp_path, HEADER + XYZ_LINE + "9010,ABC,ABC LTD,,,\n"))
    table = data.rows(NOW)
    first, second = table.to_pylist(maps_as_pydicts="strict")
    assert table.schema == REFERENCE.arrow
    assert first | {"message_id": ""} == {
        "message_id": "",
        "company_id": "9009",
        "symbol": "XYZ",
        "exchange": "ASX",
        "asset_class": "equities",
        "company_name": "XYZ MINING LTD",
        "isin": "AU000000XYZ9",
        "currency": "AUD",
        "listing_date": None,
        "delisting_date": None,
        "is_active": True,
        "ingestion_timestamp": NOW,
        "vendor_data": {"end_date": "03/31/2014", "start_date": "05/07/2008"},
    }
    assert (second["isin"], second["vendor_data"]) == (None, {})


def test_a_quoted_name_may_hold_a_comma(tmp_path: Path) -> None:
    data = read_reference(reference(tmp_path, HEADER + '9009,XYZ,"XYZ, LTD",A,b,c\n\n'))
    assert data.companies["9009"].name == "XYZ, LTD"


def test_the_venue_is_that_of_the_folder(tmp_path: Path) -> None:
    folder = reference(tmp_path)
    assert read_reference(folder).exchange == "ASX"
    write(folder / "exchange.txt", "ASX_SIM\n")
    assert read_reference(folder).instrument("9009").exchange == "ASX_SIM"


def test_an_unknown_company_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    data = read_reference(reference(tmp_path))
    with pytest.raises(SourceError, match=r"company id 42 is not in .*; it has 9009: add the line"):
        data.instrument("42")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER + "9009,XYZ\n", r"company_info\.csv, line 2: 2 columns, 6 without \| expected"),
        (HEADER + "\n9009,X|Z,a,b,c,d\n", r"line 3: 6 columns, 6 without \| expected"),
        (HEADER + XYZ_LINE * 2, "line 3: company id 9009 stands there twice"),
        (HEADER + ",XYZ,a,b,c,d\n", "line 2: company id or symbol is empty"),
        (HEADER + "9009,,a,b,c,d\n", "line 2: company id or symbol is empty"),
        (XYZ_LINE, "line 1: begins with '9009', company_id expected"),
        ("", r"company_info\.csv: the file is empty"),
        (HEADER + "9009," + "x" * 140_000, "line 2: field larger than field limit"),
        (HEADER + "9009,\udcff", "cannot be read: 'utf-8' codec"),
    ],
)
def test_malformed_reference_data_are_refused_by_line(tmp_path: Path, text: str, told: str) -> None:
    folder = reference(tmp_path)
    write(folder / "company_info.csv", text.encode(errors="surrogateescape"))
    with pytest.raises(SourceError, match=told):
        read_reference(folder)


def test_a_venue_that_is_no_name_is_refused(tmp_path: Path) -> None:
    folder = reference(tmp_path)
    write(folder / "exchange.txt", "my exchange")
    with pytest.raises(SourceError, match=r"exchange\.txt: 'my exchange' is no name of a venue"):
        read_reference(folder)


def test_reference_data_are_found_beside_the_file_and_one_folder_up(tmp_path: Path) -> None:
    folder = reference(tmp_path)
    assert find_reference(tmp_path / "9009.csv") == folder
    assert find_reference(tmp_path / "trades" / "9009.csv") == folder
    with pytest.raises(SourceError, match=r"no reference data; looked for .*: give --reference"):
        find_reference(tmp_path / "a" / "b" / "9009.csv")


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    """Return reference data with one dividend, of a company that is not listed there too."""
    folder = reference(tmp_path)
    write(
        folder / "dividends.csv",
        "company id,declared date,ex_date,record_date,pay_date,net amount,gross amount,"
        "currency type\n9009,09/25/2013,03/03/2014,03/07/2014,03/26/2014,0.59,0.842857,USD\n"
        "42,01/15/2014,03/05/2014,03/12/2014,04/10/2014,1.2014,1.716286,AUD\n",
    )
    write(folder / "stock_splits.csv", "company id,effective date,ratio\n9009,03/12/2014,2:1\n")
    write(folder / "mergers.csv", "company id,effective date,ratio\n--- NO RECORDS TO REPORT ---\n")
    return folder


def test_corporate_actions_are_typed_and_have_symbols(actions: Path) -> None:
    found = read_corporate_actions(actions)
    first = found.dividends.row(0, named=True)
    assert found.dividends["symbol"].to_list() == ["XYZ", None]
    assert first["ex_date"] == date(2014, 3, 3)
    assert (first["net_amount"], first["gross_amount"]) == (Decimal("0.59"), Decimal("0.842857"))
    assert found.splits.rows() == [("XYZ", "9009", date(2014, 3, 12), "2:1")]


def test_no_records_to_report_is_an_empty_frame(actions: Path) -> None:
    mergers = read_corporate_actions(actions).mergers
    assert mergers.is_empty()
    assert mergers.columns == ["symbol", "company_id", "effective_date", "ratio"]


@pytest.mark.parametrize("text", ["", "company id,effective date,ratio\n9009,2014-03-12,2\n"])
def test_malformed_corporate_actions_are_refused_by_file(actions: Path, text: str) -> None:
    write(actions / "stock_splits.csv", text)
    with pytest.raises(SourceError, match=r"stock_splits\.csv: "):
        read_corporate_actions(actions)


def test_a_line_short_of_a_column_is_refused(actions: Path) -> None:
    write(actions / "mergers.csv", "company id,effective date,ratio\n9009,03/12/2014\n")
    with pytest.raises(SourceError, match=r"mergers\.csv: "):
        read_corporate_actions(actions)


@pytest.mark.parametrize("amount", ["0.123456789", "1E-9", "10000000000", "nan", "-1", ""])
def test_an_amount_is_exact_or_refused_by_line(actions: Path, amount: str) -> None:
    path = actions / "dividends.csv"
    write(path, path.read_text().replace("1.716286", amount))
    with pytest.raises(
        SourceError, match=rf"dividends\.csv, line 3: gross_amount '{amount}' is no"
    ):
        read_corporate_actions(actions)


def test_missing_corporate_actions_are_refused(actions: Path) -> None:
    (actions / "mergers.csv").unlink()
    with pytest.raises(SourceError, match=r"mergers\.csv: cannot be read"):
        read_corporate_actions(actions)
