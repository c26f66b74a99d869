"""The server of the HTTP API."""

from k2lib.api.app import create_app
from k2lib.api.edge.served import ServedApp, bind
from k2lib.api.options import Options
from k2lib.platform import K2


class ApiServer(ServedApp):
    """Serves the API of a home until closed, which is to be before the home is.

    Args:
        port: 0 takes a free one; `url` names it.
    Raises:
        ConfigError: the port is in use, or other machines reach the host and no key is set.
    """

    def __init__(
        self, k2: K2, *, host: str = "127.0.0.1", port: int = 0, options: Options | None = None
    ) -> None:
        options = Options() if options is None else options
        listening = bind(host, port, options=options)
        try:
            app = create_app(k2, options=options)
        except BaseException:
            listening.close()
            raise
        super().__init__(app, listening)
