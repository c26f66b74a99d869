"""Load ASX files, as JSON arguments tell, and die at one step of a commit; see `kill_sink`."""

import json
import sys
from typing import Any

from kill_sink import Killer

from k2lib import K2


def main(settings: dict[str, Any], *, folder: str, event: str, nth: int) -> None:
    """Load the folder, or die on the way."""
    killer = Killer(settings["home"], event=event, nth=nth)
    with K2.open(on_event=killer, **settings) as k2:
        k2.load_asx(folder)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
