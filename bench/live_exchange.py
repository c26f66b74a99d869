"""The offline exchange as a process of its own, over TLS as the real hosts are.

Run: python -m bench.live_exchange RATE CA: writes the certificate that vouches for it to the file
CA, prints its addresses as JSON, and lives until its input ends.
"""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import Request, urlopen

import trustme

from bench.measure import SYMBOLS
from k2lib.simulator import ExchangeLimits, OfflineExchange
from k2lib.venues.binance.venue import BinanceVenue, binance

# A slow client is to be measured, not cut off for being slow.
BUFFER_BYTES = 2 << 30
END_S = 10.0


@dataclass(frozen=True)
class Exchange:
    """Where an exchange is reached, and the file of the certificate to trust."""

    ws: str
    rest: str
    ca: str

    def venue(self) -> BinanceVenue:
        """Return it as the feed knows a venue."""
        tls = ssl.create_default_context(cafile=self.ca)
        return replace(binance([self.ws], [self.rest]), tls=tls)

    def hold(self, seconds: float) -> None:
        """Let it keep what it has to say for so long, and then say it all at once."""
        body = json.dumps({"name": "burst", "s": seconds}).encode()
        request = Request(f"{self.rest}/control/faults", body, {"Content-Type": "application/json"})
        tls = ssl.create_default_context(cafile=self.ca)
        with urlopen(request, timeout=END_S, context=tls) as reply:
            reply.read()


@contextmanager
def exchange(rate: float, folder: Path) -> Iterator[Exchange]:
    """Run an exchange that makes so many trades a second, over all of its symbols.

    Args:
        folder: where its certificate is written to.
    """
    command = [sys.executable, "-m", __spec__.name, str(rate), str(folder / "exchange-ca.pem")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            yield Exchange(**json.loads(child.stdout.readline()))
        finally:
            child.stdin.close()
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()


def main(rate: float, ca_file: str) -> None:
    """Live until the parent lets go."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(ca_file)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    with OfflineExchange(
        SYMBOLS,
        rate=rate / len(SYMBOLS),
        ssl_context=tls,
        limits=ExchangeLimits(buffer_bytes=BUFFER_BYTES),
    ) as one:
        addresses = {"ws": one.ws_urls[0], "rest": one.rest_urls[0], "ca": ca_file}
        print(json.dumps(addresses), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
