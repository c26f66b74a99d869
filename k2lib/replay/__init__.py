"""What was traded and quoted, as if it happened again: records, batches, a topic, a WebSocket."""

from k2lib.replay.events import Batch
from k2lib.replay.player import Replay, replay
from k2lib.replay.records import Gap, Quote, Record, Trade

__all__ = ["Batch", "Gap", "Quote", "Record", "Replay", "Trade", "replay"]
