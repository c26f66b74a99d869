"""Make Grafana's dashboards of the panels: `python -m dashboards.generate`."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

from k2lib.ops.panels import BOARDS, Board, Level, Panel

UNITS: Final = {
    "rows/s": units.RowsPerSecond,
    "records": units.Short,
    "s": units.Seconds,
    "files": units.Short,
    "bytes": units.BytesIEC,
    "1/s": units.CountsPerSecond,
    "count": units.Short,
    "state": units.Short,
    "share": units.PercentUnit,
    "cores": units.Short,
}
COLORS: Final[dict[Level | None, str]] = {None: "green", "warning": "orange", "critical": "red"}
# The dashboard asks which of Grafana's Prometheus sources to use.
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${source}")
# Grafana's grid has 24 columns.
WIDTH: Final = 12
HEIGHT: Final = 8


def to_json(board: Board) -> str:
    """Return a dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"k2-{board.name}")
        .description(board.description)
        .tags(["k2"])
        .timezone("utc")
        .refresh("5s")
        .time("now-30m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
    )
    for number, panel in enumerate(board.panels, 1):
        made = made.with_panel(_panel(panel).id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel:
    legend = " ".join(f"{{{{{label}}}}}" for label in panel.legend) or panel.title
    query = prometheus.Dataquery().ref_id("A").expr(panel.query).legend_format(legend)
    return (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(UNITS[panel.unit])
        .min(0)
        .thresholds(_thresholds(panel))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
        .legend(common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .span(WIDTH)
        .height(HEIGHT)
        .with_target(query)
    )


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    """Each of Grafana's steps colours what lies above it, the first one all that lies below."""
    levels: list[Level | None] = [None, *(one.level for one in panel.thresholds)]
    if panel.thresholds[0].below:
        levels = [*levels[1:], None]
    bounds = [None, *(one.value for one in panel.thresholds)]
    steps = [
        Threshold(value=bound, color=COLORS[level])
        for bound, level in zip(bounds, levels, strict=True)
    ]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def write_dashboards(folder: Path) -> None:
    """Write one file a board."""
    for board in BOARDS:
        (folder / f"{board.name}.json").write_text(to_json(board), encoding="utf-8")


if __name__ == "__main__":
    write_dashboards(Path(__file__).parent)
