"""All that a notebook needs beside `k2lib` and `k2lib.analytics`, imported at first use.

Views for JupyterLab (a feed and its faults, the freshness of answers, snapshots by a slider),
plots, measurements, events of a feed, the offline exchange and generated samples, and the schema
with its codec.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from k2lib.errors import ConfigError

if TYPE_CHECKING:
    from k2lib.events import BreakerChanged as BreakerChanged
    from k2lib.events import ConnectionRotated as ConnectionRotated
    from k2lib.events import ReconnectWaiting as ReconnectWaiting
    from k2lib.feed.options import FeedOptions as FeedOptions
    from k2lib.feed.options import StreamLimits as StreamLimits
    from k2lib.kafka.consumer import TopicConsumer as TopicConsumer
    from k2lib.notebook.faults import EventLog as EventLog
    from k2lib.notebook.faults import Faults as Faults
    from k2lib.notebook.faults import fault_buttons as fault_buttons
    from k2lib.notebook.feed_plots import draw_gaps as draw_gaps
    from k2lib.notebook.feed_plots import draw_hosts as draw_hosts
    from k2lib.notebook.freshness import FreshnessView as FreshnessView
    from k2lib.notebook.live_view import LiveView as LiveView
    from k2lib.notebook.market_plots import Panel as Panel
    from k2lib.notebook.market_plots import draw_bars as draw_bars
    from k2lib.notebook.market_plots import draw_flow as draw_flow
    from k2lib.notebook.market_plots import flow as flow
    from k2lib.notebook.market_plots import local as local
    from k2lib.notebook.measurements import arrival_times as arrival_times
    from k2lib.notebook.measurements import compare_ids as compare_ids
    from k2lib.notebook.measurements import plan_scans as plan_scans
    from k2lib.notebook.measurements import replay_speed as replay_speed
    from k2lib.notebook.measurements import wait_until_healed as wait_until_healed
    from k2lib.notebook.snapshots import SnapshotsView as SnapshotsView
    from k2lib.notebook.venue import offline_venue as offline_venue
    from k2lib.notebook.venue import reachable_venue as reachable_venue
    from k2lib.ops.alerts import AlertLimits as AlertLimits
    from k2lib.schema.calendar import zone as zone
    from k2lib.schema.codec import decode as decode
    from k2lib.schema.codec import encode as encode
    from k2lib.schema.records import TRADE as TRADE
    from k2lib.schema.records import check_compatible as check_compatible
    from k2lib.schema.records import load_schema as load_schema
    from k2lib.schema.v1 import trade_v2 as trade_v2
    from k2lib.simulator import OfflineExchange as OfflineExchange
    from k2lib.simulator import write_samples as write_samples
    from k2lib.venues.asx.files import find_files as find_files
    from k2lib.venues.asx.files import read_file as read_file
    from k2lib.venues.asx.reference import find_reference as find_reference
    from k2lib.venues.asx.reference import read_reference as read_reference

_MODULES = {
    "BreakerChanged": "k2lib.events",
    "ConnectionRotated": "k2lib.events",
    "ReconnectWaiting": "k2lib.events",
    "FeedOptions": "k2lib.feed.options",
    "TopicConsumer": "k2lib.kafka.consumer",
    "EventLog": "k2lib.notebook.faults",
    "Faults": "k2lib.notebook.faults",
    "fault_buttons": "k2lib.notebook.faults",
    "draw_gaps": "k2lib.notebook.feed_plots",
    "draw_hosts": "k2lib.notebook.feed_plots",
    "FreshnessView": "k2lib.notebook.freshness",
    "LiveView": "k2lib.notebook.live_view",
    "Panel": "k2lib.notebook.market_plots",
    "draw_bars": "k2lib.notebook.market_plots",
    "draw_flow": "k2lib.notebook.market_plots",
    "flow": "k2lib.notebook.market_plots",
    "local": "k2lib.notebook.market_plots",
    "arrival_times": "k2lib.notebook.measurements",
    "compare_ids": "k2lib.notebook.measurements",
    "plan_scans": "k2lib.notebook.measurements",
    "replay_speed": "k2lib.notebook.measurements",
    "wait_until_healed": "k2lib.notebook.measurements",
    "SnapshotsView": "k2lib.notebook.snapshots",
    "offline_venue": "k2lib.notebook.venue",
    "reachable_venue": "k2lib.notebook.venue",
    "AlertLimits": "k2lib.ops.alerts",
    "zone": "k2lib.schema.calendar",
    "decode": "k2lib.schema.codec",
    "encode": "k2lib.schema.codec",
    "TRADE": "k2lib.schema.records",
    "check_compatible": "k2lib.schema.records",
    "load_schema": "k2lib.schema.records",
    "trade_v2": "k2lib.schema.v1",
    "write_samples": "k2lib.simulator",
    "OfflineExchange": "k2lib.simulator",
    "find_files": "k2lib.venues.asx.files",
    "read_file": "k2lib.venues.asx.files",
    "find_reference": "k2lib.venues.asx.reference",
    "read_reference": "k2lib.venues.asx.reference",
    "StreamLimits": "k2lib.feed.options",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    """Import the module of a name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as exc:
        raise ConfigError(f"no {exc.name}: {name} needs pip install 'k2lib[notebooks]'") from exc


def __dir__() -> list[str]:
    return [*globals(), *__all__]
