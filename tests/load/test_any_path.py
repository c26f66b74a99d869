"""A home at a path of odd characters: every command works, and all it writes is in the home."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.api_client import api_of, asked
from support.binance_facts import Fact, csv_line, write_archive

from k2lib import K2

FOLDER = "issue#12 ok? feature%2Ftrades %41 a&b=c [x] a*b {y} 'q' \"é東\" ;:@~$!"
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_a_home_of_odd_characters_serves_every_command(run: Run, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    home = parent / FOLDER / "home"
    first, second = (
        write_archive(tmp_path / f"BTCUSDT-trades-2025-01-0{day}.zip", csv_line(Fact(day)))
        for day in (1, 2)
    )
    for path in (first, second, first):
        assert run("load", "binance-archive", path, K2_HOME=str(home))[0] == 0
    code, out, _ = run("sql", "select count(*) n from trades_v2", "--format", "csv")
    assert (code, out.split()) == (0, ["n", "2"])
    code, out, _ = run("maintain")
    assert (code, "2 files merged into 1" in out) == (0, True)
    code, out, _ = run("status")
    assert (code, f"home {home}, " in out) == (0, True)
    with K2.open(home=home) as k2, api_of(k2) as client:
        assert k2.trades("BTCUSDT").height == 2
        assert len(asked(client, "/v1/trades", symbol="BTCUSDT")["data"]) == 2
    assert [path.name for path in parent.iterdir()] == [FOLDER]
    assert [path.name for path in home.parent.iterdir()] == ["home"]
    assert {path.name for path in home.iterdir()} == {"catalog.db", "run", "warehouse"}
    assert not [path for path in home.rglob("*") if can_be_read_by_others(path, home)]


def can_be_read_by_others(path: Path, home: Path) -> bool:
    """Say whether no folder of the home closes the way to a file, and neither does its mode."""
    above = [one for one in path.parents if one != home and one.is_relative_to(home)]
    return not any(one.stat().st_mode & 0o077 == 0 for one in (path, *above))
