"""What went wrong, told by what the caller may do about it.

K2Error
├── ConfigError              fix the setting, argument or missing part, then start again
├── SourceError              this file cannot be loaded; the others can
├── RecordError              this record can never pass: dead letter, then go on
├── SchemaError              the schema change is refused; nothing was written
├── QueryError               ask differently: the message names what exists
│   ├── NotFoundError        there is no such instrument, venue, day or snapshot
│   └── LimitError           ask for less: it takes more time or memory than a query may
├── ClosedError              what it is asked of was closed: open it again
├── OwnerError               another process writes here; it is named
├── DeliveryError            Kafka did not take these records; they were not counted as loaded
├── LossError                records are gone from the log: restore it, or accept the loss
└── TransientError           try again after a delay
    └── StaleWriterError     the table moved on under this writer: begin at its offsets
"""


def reason_of(exc: BaseException) -> str:
    """Return what an error says, in one line; its kind where it says nothing."""
    return str(exc).partition("\n")[0] or type(exc).__name__


class K2Error(Exception):
    """Root of all errors of k2lib; caught only in the CLI, the API and widgets."""


class ConfigError(K2Error):
    """Fix the setting, the argument or the missing part and start again."""


class SourceError(K2Error):
    """This file cannot be loaded; the other files can."""


class RecordError(K2Error):
    """This record can never pass: it goes to the dead letters and the stream goes on."""


class SchemaError(K2Error):
    """The schema change is refused; nothing was written."""


class QueryError(K2Error):
    """The question has no single answer; the message names what can be asked."""


class NotFoundError(QueryError):
    """There is no such instrument, venue, day or snapshot; the message names what there is."""


class LimitError(QueryError):
    """The answer takes more time or memory than a query may: ask for less."""


class ClosedError(K2Error):
    """What is used here was closed: open it again."""


class OwnerError(K2Error):
    """Another process writes here: use it, or end it first."""


class DeliveryError(K2Error):
    """Kafka did not take some records: load them again."""


class LossError(K2Error):
    """Records that the lake never saw are gone from the log."""


class TransientError(K2Error):
    """Try again after a delay."""


class StaleWriterError(TransientError):
    """The table no longer ends where this batch begins: begin again at its offsets."""
