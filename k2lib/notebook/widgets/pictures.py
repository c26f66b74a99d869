"""Figures of live views as what stays when they are over."""

import json
from typing import Any, Final

PLOTLY: Final = "application/vnd.plotly.v1+json"


def picture(figure: Any) -> dict[str, Any]:
    """Return a figure as it is now, as plotly's own kind of output, in what JSON can say."""
    told = json.loads(figure.to_json())
    return {PLOTLY: {"data": told["data"], "layout": told["layout"]}}
