"""Commands that run notebooks: `k2 notebooks`, and `k2 demo` with its proof before them."""

from pathlib import Path
from typing import Annotated

import typer

from k2lib.reasons import file_errors


def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="All without it.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, a JSON scalar.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Rewrite the committed outputs too.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where notebooks and HTML go.")] = Path(
        "build/notebooks"
    ),
) -> None:
    """Run the notebooks and write them with an index page, readable without a network."""
    from k2lib.cli.terminal import notebook_progress
    from k2lib.notebook.runner import parse_parameters, run_notebooks

    with notebook_progress() as on_progress, file_errors(f"the folder {output}"):
        index = run_notebooks(
            names or [],
            parameters=parse_parameters(parameter or []),
            output=output,
            in_place=in_place,
            on_progress=on_progress,
        )
    typer.echo(f"open {index}")


def demo(
    asx: Annotated[
        Path | None, typer.Option("--asx", help="Folder of real ASX files; generated ones else.")
    ] = None,
    build: Annotated[Path, typer.Option(help="All of the demo's files go here.")] = Path("build"),
) -> None:
    """Run the main job: files through Kafka into the lake, twice, proved; then the notebooks."""
    from k2lib.cli.demo_report import demo_samples, print_demo, run_demo
    from k2lib.cli.terminal import load_progress, notebook_progress
    from k2lib.notebook.runner import run_notebooks

    with file_errors(f"the folder {build}"):
        folder = asx or demo_samples(build)
    with load_progress([folder], times=2) as on_progress, file_errors(f"the folder {build}"):
        report = run_demo(folder, home=build / "homes" / "demo", on_progress=on_progress)
    print_demo(report)
    with notebook_progress() as on_cell, file_errors(f"the folder {build}"):
        index = run_notebooks(
            [],
            parameters={"asx": str(folder)},
            output=build / "notebooks",
            homes=build / "homes",
            on_progress=on_cell,
        )
    typer.echo(f"open {index}")
    if not report.agree:
        raise typer.Exit(1)
