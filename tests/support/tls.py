"""TLS between a test's server and its clients."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trustme


@dataclass
class Tls:
    """A test authority: what its servers present, and what its clients trust."""

    authority: trustme.CA = field(default_factory=trustme.CA)

    def server(self, **options: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1", **options).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


LONG_AGO = {
    "not_before": datetime(2020, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 2, 1, tzinfo=UTC),
}
