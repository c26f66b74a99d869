"""Runs of one notebook: papermill in a kernel of this Python, which writes nowhere else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

CELL_TIMEOUT_S: Final = 900
START_TIMEOUT_S: Final = 120
KERNEL: Final = "python3"

OnCell = Callable[[int, int], None]


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Starts its kernel from this interpreter, whatever kernels are installed."""

    folder: Path

    def create_kernel_manager(self) -> KernelManager:
        manager: KernelManager = super().create_kernel_manager()
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        manager.connection_file = str(self.folder / "kernel.json")
        return manager


class _Engine(NBClientEngine):  # type: ignore[misc]
    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, folder: Path, on_cell: OnCell, **_: Any
    ) -> NotebookNode:
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=START_TIMEOUT_S,
            store_widget_state=False,
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=40"],
            on_cell_complete=lambda cell, cell_index: on_cell(cell_index + 1, len(nb_man.nb.cells)),
        )
        client.folder = folder
        executed: NotebookNode = client.execute(env=_environment(folder))
        return executed


def run_notebook(
    source: Path, executed: Path, *, parameters: dict[str, Any], on_cell: OnCell
) -> str | None:
    """Run a notebook in the current directory and write what it became, also where it fails.

    Args:
        on_cell: told after every code cell: cells done, cells in all.
    Returns:
        What failed and in which cell; None where nothing did.
    """
    folder = executed.parent.resolve() / f".{executed.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("k2", _Engine)
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters=parameters,
            engine_name="k2",
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            folder=folder,
            on_cell=on_cell,
        )
    except PapermillExecutionError as exc:
        return f"cell [{exc.exec_count}]: {exc.ename}: {exc.evalue}"
    except CellTimeoutError:
        return f"a cell took more than {CELL_TIMEOUT_S} s"
    except DeadKernelError:
        return "its Python process died"
    finally:
        shutil.rmtree(folder)
    return None


def _environment(folder: Path) -> dict[str, str]:
    """Plots come out as data, to be drawn where they are shown."""
    return {
        **os.environ,
        "IPYTHONDIR": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "POLARS_ICEBERG_PLANNER": "pyiceberg",
        "PYTHONHASHSEED": "0",
    }
