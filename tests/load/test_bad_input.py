"""Bad input on the command line: what is said, the exit code, and that the rest goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k2lib import K2
from k2lib.errors import QueryError

# Most tests here load files, three of them in a process of their own.
pytestmark = pytest.mark.slow
HEADER = "company_id,symbol,company_name,ISIN,start_date,end_date\n"
XYZ = "9009,XYZ,XYZ MINING LTD,AU000000XYZ9,05/07/2008,03/31/2014\n"
GOOD = b"03/10/2014,10:00:06.717,1.11,3667,0,,"
AT = "03/10/2014,10:00:06.717"
LONG = b"x" * 70_000
BAD_LINES = [
    (f"{AT},1.11,3667,0,", "wrong_columns", "6 columns, 7 expected"),
    (f"{AT},1.11,3667,0,,,", "wrong_columns", "8 columns, 7 expected"),
    (f"{AT},abc,3667,0,,", "bad_number", "price 'abc' is not a number"),
    (f"{AT},1.11,,0,,", "bad_number", "volume '' is not a number"),
    (f"{AT},-1.11,3667,0,,", "negative", "price -1.11 is negative"),
    (
        f"{AT},1.11,92233720368.54775808,0,,",
        "overflow",
        "volume 92233720368.54775808 does not fit decimal(19,8) in 64 bits",
    ),
    (f"{AT},1.123456789,1,0,,", "overflow", "price 1.123456789 does not fit decimal(18,8)"),
    (
        "02/30/2014,10:00:06.717,1.11,3667,0,,",
        "bad_date",
        "'02/30/2014' 10:00:06.717 is not a time in Sydney (MM/DD/YYYY)",
    ),
    (
        "10/05/2014,02:30:00.000,1.11,3667,0,,",
        "bad_date",
        "'10/05/2014' 02:30:00.000 is not a time in Sydney (MM/DD/YYYY)",
    ),
    (
        "03/10/2014,25:00:00.000,1.11,3667,0,,",
        "bad_time",
        "time '25:00:00.000' is not HH:MM:SS.mmm",
    ),
    (b"\xff\xfe," + GOOD[11:], "not_utf8", "the line is not valid UTF-8"),
    (f"{AT},1.11,3667,0,X|Y,", "bad_text", "venue 'X|Y' contains |"),
    (f"{AT},{'1' * 200_000},1,0,,", "overflow", "price " + "1" * 294),
    (LONG, "wrong_columns", "1 columns, 7 expected"),
]
Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def child(home: Path, *arguments: object, **variables: str) -> Outcome:
    """Run the command line as a user does."""
    ours = {name for name in os.environ if name.startswith("K2_")}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-m", "k2lib", *map(str, arguments)],
        env=kept | {"K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "0.2"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def only_error(err: str) -> str:
    """Return the one line that says what is wrong."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("k2: ")]
    return line


@dataclass(frozen=True)
class Loaded:
    """What one load did: the outcome of the command, and where its home is."""

    home: Path
    code: int
    report: dict[str, Any]
    err: str

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        return {file["file"]: file for file in self.report["files"]}


def loaded(folder: Path, *paths: Path) -> Loaded:
    home = folder / "home"
    code, out, err = child(home, "load", "asx", "--json", *paths)
    return Loaded(home, code, json.loads(out), err)


@pytest.fixture(scope="module")
def bad_lines(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Load one file in which every second line is bad."""
    folder = tmp_path_factory.mktemp("lines")
    raw = [line if isinstance(line, bytes) else line.encode() for line, _, _ in BAD_LINES]
    text = b"".join(GOOD + b"\n" + line + b"\n" for line in raw)
    write(folder / "reference-data" / "company_info.csv", HEADER + XYZ)
    return loaded(folder, write(folder / "trades" / "9009.csv", text))


def test_bad_lines_are_counted_and_no_failure(bad_lines: Loaded) -> None:
    assert bad_lines.code == 0
    report = bad_lines.files["trades/9009.csv"]
    assert report == {
        "file": "trades/9009.csv",
        "kind": "trades",
        "rows": len(BAD_LINES),
        "already_there": 0,
        "dead_letters": len(BAD_LINES),
        "error": None,
        "note": None,
    }


def test_good_lines_beside_bad_ones_are_in_the_lake(bad_lines: Loaded) -> None:
    with K2.open(home=bad_lines.home) as k2:
        assert k2.trades("XYZ").height == len(BAD_LINES)


@pytest.mark.parametrize("number", range(len(BAD_LINES)))
def test_a_bad_line_is_a_dead_letter_with_place_text_and_reason(
    bad_lines: Loaded, number: int
) -> None:
    line, reason, detail = BAD_LINES[number]
    raw = line if isinstance(line, bytes) else line.encode()
    with K2.open(home=bad_lines.home) as k2:
        found = k2.sql(
            "select source, reason, detail, raw, raw_size from dead_letters where position = ?",
            [f"line {2 * number + 2}"],
        )
    assert found.rows() == [("9009.csv", reason, detail, raw[: 64 * 1024], len(raw))]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Load one good file among files that cannot be loaded."""
    folder = tmp_path_factory.mktemp("files")
    line = GOOD.decode() + "\n"
    texts = {
        "trades/9009.csv": line,
        "trades/42.csv": line,
        "trades/XYZ.csv": line,
        "trades/9009-empty.csv": "",
        "trades/9009-five.csv": "1,2,3,4,5\n" * 3,
        "reference-data/company_info.csv": HEADER + XYZ,
        "alone/deep/trades/9009.csv": line,
        "broken/trades/9009.csv": line,
        "broken/reference-data/company_info.csv": HEADER + "9009,XYZ\n",
        "nothing/readme.txt": "no data here",
    }
    for name, text in texts.items():
        write(folder / name, text)
    paths = [name for name in texts if name.startswith("trades/")]
    paths += ["trades/9009-missing.csv", "quotes/*.csv", "alone", "broken", "nothing"]
    return loaded(folder, *(folder / path for path in paths))


def test_files_that_cannot_be_loaded_end_in_exit_code_2(bad_files: Loaded) -> None:
    assert bad_files.code == 2
    assert "Traceback" not in bad_files.err


def test_a_good_file_beside_bad_ones_is_loaded(bad_files: Loaded) -> None:
    good = next(file for file in bad_files.report["files"] if file["file"] == "trades/9009.csv")
    assert (good["rows"], good["error"]) == (1, None)
    with K2.open(home=bad_files.home) as k2:
        assert k2.trades("XYZ").height == 1


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (
            "trades/42.csv",
            "company id 42 is not in {folder}/reference-data/company_info.csv; it has 9009: "
            "add the line, or give --reference",
        ),
        (
            "trades/XYZ.csv",
            "trades/XYZ.csv: the name must begin with the company id: 7078.csv",
        ),
        ("trades/9009-empty.csv", "trades/9009-empty.csv: the file is empty"),
        (
            "trades/9009-five.csv",
            "trades/9009-five.csv: 5 columns; trades have 7, quotes have 6",
        ),
        (
            "trades/9009-missing.csv",
            "{folder}/trades/9009-missing.csv: cannot be read: No such file or directory",
        ),
        ("quotes/*.csv", "{folder}/quotes/*.csv: cannot be read: No such file or directory"),
        ("{name}/nothing", "{folder}/nothing: no .csv file in this folder"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_why(bad_files: Loaded, file: str, error: str) -> None:
    folder = bad_files.home.parent
    names = {"folder": folder, "name": folder.name}
    assert bad_files.files[file.format(**names)]["error"] == error.format(**names)


def test_missing_and_malformed_reference_data_are_told(bad_files: Loaded) -> None:
    folder = bad_files.home.parent
    errors = [file["error"] for file in bad_files.report["files"] if file["error"]]
    assert (
        f"{folder}/broken/reference-data/company_info.csv, line 2: 2 columns, 6 without | expected"
    ) in errors
    alone = folder / "alone" / "deep"
    assert (
        f"{alone}/trades/9009.csv: no reference data; looked for company_info.csv in "
        f"{alone}/trades/reference-data and {alone}/reference-data: give --reference"
    ) in errors


def test_every_file_has_its_line_in_the_report(bad_files: Loaded) -> None:
    assert len(bad_files.report["files"]) == 11
    assert sum(file["error"] is not None for file in bad_files.report["files"]) == 9


def test_a_file_of_bad_lines_only_is_loaded_as_no_rows(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "reference-data" / "company_info.csv", HEADER + XYZ)
    path = write(tmp_path / "9009.csv", GOOD.replace(b"1.11", b"x") + b"\n")
    code, out, _ = run("load", "asx", "--json", path)
    report = json.loads(out)["files"][0]
    assert (code, report["rows"], report["already_there"], report["dead_letters"]) == (0, 0, 0, 1)


def test_parts_without_a_company_id_do_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "reference-data" / "company_info.csv", HEADER + XYZ)
    for name in ("9009-a.csv", "9009-b.csv", "XYZ.csv"):
        write(tmp_path / "trades" / name, GOOD + b"\n")
    code, out, _ = run("load", "asx", "--json", "--parts", tmp_path / "trades")
    errors = [(file["rows"], bool(file["error"])) for file in json.loads(out)["files"]]
    assert (code, errors) == (2, [(2, False), (1, False), (0, True)])


def test_a_reference_folder_without_companies_is_told(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "9009.csv", GOOD + b"\n")
    code, out, _ = run("load", "asx", "--json", "--reference", tmp_path / "none", path)
    assert code == 2
    assert json.loads(out)["files"][0]["error"].startswith(
        f"{tmp_path}/none/company_info.csv: cannot be read"
    )


def test_a_refused_file_alone_is_one_line_without_a_table(run: Run, tmp_path: Path) -> None:
    code, out, err = run("load", "asx", write(tmp_path / "trades" / "9009.csv", ""))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "not loaded: trades/9009.csv: the file is empty"


def test_an_unknown_setting_ends_the_command_in_one_line(tmp_path: Path) -> None:
    code, out, err = child(tmp_path, "sql", "select 1", K2_KAFKA_BOOTSTRAPS="x")
    assert (code, out) == (1, "")
    assert err.startswith("k2: unknown setting K2_KAFKA_BOOTSTRAPS; known are K2_HOME, ")
    assert err.count("\n") == 1


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    """Return a home to which nothing was written yet."""
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    return home


@pytest.mark.usefixtures("empty_home")
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"K2_COMMIT_ROWS": "many"},
            "K2_COMMIT_ROWS='many': Input should be a valid integer, "
            "unable to parse string as an integer",
        ),
        (
            {"K2_HOME": "/dev/null/home"},
            "K2_HOME='/dev/null/home': /dev/null is not a folder: name another place",
        ),
        (
            {"K2_KAFKA_CONFIG": "/dev/null/kafka"},
            "K2_KAFKA_CONFIG=/dev/null/kafka: Not a directory: name another place",
        ),
        (
            {"K2_KAFKA_BOOTSTRAP": "127.0.0.1:1"},
            "Kafka at 127.0.0.1:1: set K2_SCHEMA_REGISTRY_URL too",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_told(
    run: Run, variables: dict[str, str], told: str
) -> None:
    code, out, err = run("sql", "select 1", **variables)
    assert (code, out, only_error(err)) == (1, "", f"k2: {told}")


@pytest.mark.usefixtures("empty_home")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["select 1", "--format", "xml"], "--format xml: give one of table, json, csv"),
        (["select 1", "--output", "/dev/null/x"], "--output /dev/null/x: cannot be written: "),
        (["selekt 1"], "Parser Error: syntax error at or near"),
        (["select nope from trades_v2"], 'Binder Error: Referenced column "nope" not found'),
        (["select * from nope"], "Catalog Error: Table with name nope does not exist"),
        (["select 1 / 'x'"], "Conversion Error: "),
        (["select 1", "--start", "10/03/2014"], "start='10/03/2014': give a date, 2014-03-10, or "),
        (
            ["select 1", "--end", "20140310T010203.1234567Z"],
            "end='20140310T010203.1234567Z': 7 dig",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_is_told(
    run: Run, arguments: list[str], told: str
) -> None:
    code, out, err = run("sql", *arguments)
    assert (code, out) == (1, "")
    assert only_error(err).startswith(f"k2: {told}")


def test_the_tables_of_an_empty_home_are_empty(run: Run, empty_home: Path) -> None:
    code, out, _ = run("sql", "select count(*) as n from trades_v2", "--format", "csv")
    assert (code, out.split()) == (0, ["n", "0"])
    assert [path.name for path in empty_home.iterdir()] == ["run"]


def test_a_load_without_a_file_makes_no_home(run: Run, tmp_path: Path) -> None:
    code, _, err = run("load", "asx", tmp_path / "nope")
    assert code == 2
    assert f"{tmp_path}/nope: cannot be read: No such file" in err.replace("\n", "")
    assert not (tmp_path / "home").exists()


def test_a_python_read_of_no_home_makes_none(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        assert k2.sql("from trades_v2").is_empty()
    assert not (tmp_path / "home").exists()


def test_no_files_to_load_is_a_mistake_in_the_command(run: Run) -> None:
    code, _, err = run("load", "asx")
    assert code == 2
    assert "Missing argument" in err


def test_an_unknown_symbol_is_told_with_those_there_are(bad_lines: Loaded) -> None:
    with K2.open(home=bad_lines.home) as k2, pytest.raises(QueryError, match=r"ABC.*ASX:XYZ"):
        k2.trades("ABC")


def test_an_unknown_table_is_told_with_those_there_are(bad_lines: Loaded) -> None:
    with K2.open(home=bad_lines.home) as k2, pytest.raises(QueryError, match=r"trades_v2, quotes"):
        k2.table("trades_v3")
