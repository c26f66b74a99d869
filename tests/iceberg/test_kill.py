"""The sink killed at each step of a commit, and stale sinks beside it: no row lost, none twice."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.feeding import open_session, produce, read_messages, watermarks
from support.kafkas import delete_topics
from support.lake_audit import Audit, audit
from support.log_rows import many_trades, message_ids
from support.paths import SUPPORT
from support.waiting import wait_until

from k2lib.errors import StaleWriterError
from k2lib.iceberg.sink_session import SinkSession
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.connect import RemoteKafka
from k2lib.ops.services import Services
from k2lib.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SCRIPT = SUPPORT / "kill_sink.py"
ROWS = 20_000
COMMIT_ROWS = 1_000
STEPS = ("batch_read", "files_written", "commit_held", "commit_done", "batch_done")
KILLS = [(step, 2) for step in STEPS] + [(step, 1) for step in STEPS[1:4]]


@dataclass(frozen=True)
class Outcome:
    """What the kills left: how each child ended, the table after it, and what the stale got."""

    codes: list[int]
    audits: list[Audit]
    refusals: list[StaleWriterError]
    before_and_after_stale: tuple[Audit, Audit]
    watermarks: list[int]


def _start(settings: dict[str, Any], *, event: str = "", nth: int = 0) -> subprocess.Popen[bytes]:
    arguments = json.dumps({"settings": settings, "event": event, "nth": nth})
    return subprocess.Popen([sys.executable, SCRIPT, arguments])


def _audit(home: Path) -> Audit:
    found = audit(home)
    assert found is not None
    return found


def _kill_at(settings: dict[str, Any], *, event: str, nth: int) -> tuple[int, Audit]:
    code = _start(settings, event=event, nth=nth).wait(60)
    return code, _audit(Path(settings["home"]))


def _feed_to(ends: list[int], settings: dict[str, Any]) -> tuple[int, Audit]:
    home = Path(settings["home"])
    child = _start(settings)
    wait_until(lambda: child.poll() is not None or sorted(_audit(home).ends().values()) == ends)
    child.send_signal(signal.SIGINT)
    return child.wait(60), _audit(home)


def _refused(stale: SinkSession) -> StaleWriterError:
    with pytest.raises(StaleWriterError) as refusal:
        stale.commit()
    return refusal.value


@pytest.fixture(scope="module")
def outcome(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    delete_topics(services.bootstrap)
    home = tmp_path_factory.mktemp("kill") / "home"
    settings = {
        "home": str(home),
        "kafka_bootstrap": services.bootstrap,
        "schema_registry_url": services.registry_url,
        "commit_rows": COMMIT_ROWS,
    }
    with contextlib.closing(
        RemoteKafka(Cluster(services.bootstrap), services.registry_url)
    ) as kafka:
        produce(kafka, many_trades(ROWS))
        ends = [high for _, high in watermarks(kafka)]
        with (
            open_session(kafka, Settings(home=home)) as first,
            open_session(kafka, Settings(home=home)) as second,
        ):
            read_messages(first, 2_000)
            runs = [_kill_at(settings, event=event, nth=nth) for event, nth in KILLS[:4]]
            read_messages(second, COMMIT_ROWS)
            runs += [_kill_at(settings, event=event, nth=nth) for event, nth in KILLS[4:]]
            before = _audit(home)
            refusals = [_refused(first), _refused(second)]
            after = _audit(home)
        runs.append(_feed_to(sorted(ends), settings))
    yield Outcome([c for c, _ in runs], [a for _, a in runs], refusals, (before, after), ends)


def test_each_child_but_the_last_dies_where_it_was_told_to(outcome: Outcome) -> None:
    assert outcome.codes == [-signal.SIGKILL] * len(KILLS) + [0]


def test_no_row_is_lost_and_none_is_there_twice(outcome: Outcome) -> None:
    assert outcome.audits[-1].column() == message_ids(ROWS)


def test_rows_agree_with_the_offsets_after_every_kill(outcome: Outcome) -> None:
    for seen in outcome.audits:
        stored = seen.column()
        assert len(stored) == len(set(stored)) == sum(seen.ends().values())


def test_offsets_join_without_holes_and_end_at_the_high_watermarks(outcome: Outcome) -> None:
    for seen in outcome.audits:
        seen.assert_contiguous()
    ends = {int(tp[2]): end for tp, end in outcome.audits[-1].ends().items()}
    assert [ends[number] for number in range(len(ends))] == outcome.watermarks


def test_a_kill_before_the_catalogs_commit_leaves_nothing_and_after_it_all(
    outcome: Outcome,
) -> None:
    commits = [len(seen.commits()) for seen in outcome.audits[: len(STEPS)]]
    assert commits == [1, 2, 3, 5, 7]


def test_stale_sinks_are_refused_and_nothing_of_theirs_lands(outcome: Outcome) -> None:
    before, after = outcome.before_and_after_stale
    assert len(outcome.refusals) == 2
    assert (before.location, before.column()) == (after.location, after.column())
