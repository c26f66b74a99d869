"""Buttons for the faults of an offline exchange."""

from collections.abc import Mapping
from typing import Any, Final

import ipywidgets

from k2lib.errors import K2Error
from k2lib.notebook.faults import Faults

# What a button says, the fault, its options, and what a look at the button tells.
BUTTONS: Final[tuple[tuple[str, str, Mapping[str, Any], str], ...]] = (
    ("cut", "cut", {}, "reset every connection"),
    ("stall", "stall", {"s": 6.0}, "connections stay open and say nothing, 6 s"),
    ("refuse", "refused", {"s": 3.0, "cut": True}, "every host ends and refuses, 3 s"),
    ("shutdown", "shutdown", {"s": 2.0}, "serverShutdown, then the end 2 s later"),
    ("skip ids", "skip", {"n": 25}, "25 trades of each symbol are not sent"),
    ("void ids", "void", {"n": 10}, "10 ids of each symbol are never made"),
    ("garbage", "garbage", {"n": 7}, "7 malformed frames"),
    ("duplicate", "duplicate", {"n": 50}, "50 trades of each symbol come twice"),
    ("reorder", "reorder", {"n": 20}, "20 trades of each symbol come in another order"),
    ("REST down", "rest_missing", {"s": 5.0}, "REST answers 503, 5 s"),
    ("heal", "heal", {}, "end every fault"),
)


def fault_buttons(faults: Faults) -> Any:
    """Return a row of buttons, each of which lets a fault happen at every host."""
    said = ipywidgets.HTML()
    buttons = [_button(faults, said, *one) for one in BUTTONS]
    flow = ipywidgets.Layout(display="flex", flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(buttons, layout=flow), said])


def _button(
    faults: Faults, said: Any, text: str, fault: str, options: Mapping[str, Any], tells: str
) -> Any:
    def pressed(_: Any) -> None:
        try:
            faults.cause(fault, **options)
            said.value = f"{text}: {tells}"
        except K2Error as exc:
            said.value = str(exc)

    button = ipywidgets.Button(
        description=text,
        tooltip=tells,
        button_style="success" if fault == "heal" else "warning",
        layout=ipywidgets.Layout(width="auto"),
    )
    button.on_click(pressed)
    return button
