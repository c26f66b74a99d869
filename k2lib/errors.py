"""Errors by what the caller should do; messages name the value, the place and the remedy.

K2Error
├── ConfigError                 fix the setting, argument or missing part, then start again
├── SourceError                 this file cannot be loaded; the others can
│   ├── BrokenFileError         (venues) download the file again
│   └── VenueRefusedError       (venues) the venue refuses the request: do not repeat it
├── RecordError                 this record can never pass: dead letter, then go on
├── SchemaError                 the schema change is refused; nothing was written
├── TableError                  another engine changed this table: the message names the remedy
│   └── DamagedFileError        a file of lake or home is missing or damaged: restore it
├── QueryError                  change the query: the message names what exists
│   ├── NotFoundError           there is no such instrument, venue, day or snapshot
│   ├── LimitError              query less: it takes more time or memory than allowed
│   └── WrongParameterError     (api) fix the named parameter
├── ClosedError                 the object was closed: open it again
├── OwnerError                  this or another process writes here; it is named
├── DeliveryError               Kafka did not take these records: load them again
├── LossError                   records are gone from the log: restore it, or accept the loss
└── TransientError              try again after a delay
    ├── StaleWriterError        the table moved on under this writer: begin at its offsets
    ├── HostRefusedError        (venues) try another host, or this one after its delay
    └── VenueUnavailableError   (venues) no host answers now
"""


def reason_of(exc: BaseException) -> str:
    """Return the first line of an error's message; its class where that is empty."""
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


class TableError(K2Error):
    """Another engine left this table as K2 cannot use it; the message names change and remedy."""


class DamagedFileError(TableError):
    """A file of the lake or the home is missing or cannot be read: restore it."""


class QueryError(K2Error):
    """The query has no single answer: change it; the message names what exists."""


class NotFoundError(QueryError):
    """There is no such instrument, venue, day or snapshot; the message names what there is."""


class LimitError(QueryError):
    """The query takes more time or memory than allowed: query less."""


class ClosedError(K2Error):
    """The object was closed: open it again."""


class OwnerError(K2Error):
    """Another K2 writes here, in this process or another: use it, or end it first."""


class DeliveryError(K2Error):
    """Kafka did not take some records: load them again."""


class LossError(K2Error):
    """Records are gone from the log before the lake had them: restore it, or accept the loss."""


class TransientError(K2Error):
    """Try again after a delay."""


class StaleWriterError(TransientError):
    """The table no longer ends where this batch begins: begin again at its offsets."""
