"""Run an experiment's notebook headlessly and write its page: papermill executes, nbconvert renders."""

import logging
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.catalog import Experiment
from tinyclf.report.format import heading
from tinyclf.report.navigation import connect
from tinyclf.report.sections import arrange
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write, locked, writable
from tinyclf.utils.paths import PROJECT, data_dirs, reports_dir, tiny_imagenet_sources

OVERWRITTEN = re.compile(r"[^\n\r]*\r(?!\n)")  # by what comes after it, as on a terminal
FAILED = ("failed.ipynb", "failed.html")  # what a run that failed leaves; not committed


class ThisPython(AsyncKernelManager):
    """A kernel of this very Python, whatever other kernels are installed under the name `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


def run(experiment: Experiment) -> None:
    """Execute the notebook and write notebook.ipynb and index.html into its `page_folder`.

    When a cell fails, the two are called failed.ipynb and failed.html, and those of an earlier run stay.
    Raises TinyclfError when a cell failed, with its message, or when the pages cannot be written.
    """
    folder, busy = writable(experiment.page_folder), f"{experiment.name} is running already; wait for it"
    if experiment.name == "summary":
        busy = ""  # runs that end together each make it, one after the other
    with locked(folder / ".page.lock", busy):
        execute(experiment, folder)


def execute(experiment: Experiment, folder: Path) -> None:
    """Execute the notebook and publish it, as failed where a cell failed; see `run` for errors."""
    partial = folder / "notebook.partial.ipynb"  # papermill saves it after every cell
    show_progress()
    os.environ.pop("JPY_SESSION_NAME", None)  # of a notebook that calls this: nobody can use widgets of this kernel
    failure = ""
    try:
        papermill.execute_notebook(
            str(experiment.notebook),
            str(partial),
            experiment.parameters,
            kernel_name="python3",  # what the notebook says; the next line decides
            kernel_manager_class=ThisPython,
            progress_bar=False,
            log_output=True,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log: TCP at the start, sockets at the end
        )
    except PapermillExecutionError as error:
        failure = error.evalue if error.ename == "TinyclfError" else f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        failure = "the kernel died: killed, or out of memory (then try a smaller batch_size)"
        append_note(partial, f"## The run ended here: {failure}")
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TinyclfError(f"cannot write {partial}: {error.strerror}") from error
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)  # the pages of an earlier run stay
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # or the cell's end appears as a traceback on exit
        raise
    if failure:
        publish(partial, experiment, *FAILED)
        raise TinyclfError(f"{failure}\n  the page with the error: {folder / FAILED[1]}")
    publish(partial, experiment, "notebook.ipynb", "index.html")
    for name in FAILED:
        (folder / name).unlink(missing_ok=True)


def append_note(path: Path, text: str) -> None:
    """Add a paragraph to the end of a notebook."""
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    nbformat.write(notebook, path)


def publish(executed: Path, experiment: Experiment, notebook: str, page: str) -> None:
    """Turn an executed notebook, as far as it ran, into its two pages, each written whole or not at all."""
    try:
        clean_notebook(executed, experiment)
        html, dataset_folder = render(executed, experiment.title), reports_dir() / experiment.parameters["dataset"]
        with locked(dataset_folder / ".pages.lock"):  # as the pages of neighbours are written too
            os.replace(executed, executed.with_name(notebook))  # first: a page without its notebook is nobody's
            atomic_write(executed.with_name(page), html)
            connect(dataset_folder, experiment.name)
    except OSError as error:
        raise TinyclfError(f"cannot write the page of {experiment.name}: {error}") from error
    finally:
        executed.unlink(missing_ok=True)


def show_progress() -> None:
    """Let what a notebook prints, a line for each epoch, through to standard error as it comes."""
    log = logging.getLogger("papermill")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addFilter(lambda record: record.funcName in ("process_message", "log_output_message"))
        log.addFilter(lambda record: not record.getMessage().startswith("<IPython.core.display."))


def clean_notebook(path: Path, experiment: Experiment) -> None:
    """Remove paths of this machine, progress lines and widgets from an executed notebook, and set its title."""
    notebook = nbformat.read(path, 4)
    notebook.metadata.pop("widgets", None)  # their state; a page has no kernel, and so no widgets
    dataset = experiment.parameters["dataset"]
    notebook.metadata["title"] = f"{experiment.title} ({dataset})"
    if experiment.name == "summary":
        notebook.metadata["title"] = heading(dataset)
    else:
        notebook.metadata |= {"front": "../index.html", "dataset": DATASETS[dataset].title}
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = joined_streams(cell.outputs)
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    path.write_text(without_paths(nbformat.writes(notebook), experiment.parameters.get("weights", "")), "utf-8")


def without_paths(text: str, weights: str) -> str:
    """`text` where the paths of data, reports, project and `weights` are their last part alone."""
    folders = [*tiny_imagenet_sources(), *data_dirs(), reports_dir(), *filter(None, [PROJECT])]
    paths = {weights, *map(str, folders)}
    for path in sorted(paths, key=len, reverse=True):  # a folder after what is in it
        if os.sep in path and (name := os.path.basename(path)):
            text = text.replace(path, name)
    return text


def joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with what was printed in one piece, and without what was overwritten.

    papermill leaves a piece for each time that something was printed. (nbconvert joins them from version 7 on.)
    """
    joined: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}  # standard output and error since the last output of another kind
    for output in outputs:
        if output.output_type != "stream":
            streams = {}
        elif output.name in streams:
            streams[output.name].text += output.text
            continue
        else:
            streams[output.name] = output
        joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = OVERWRITTEN.sub("", output.text)
    return joined


def render(path: Path, title: str) -> str:
    """A notebook as one self-contained HTML page: no request leaves it, code is folded, and some cells are left out."""
    exporter = HTMLExporter(template_name="templates", extra_template_basedirs=[str(Path(__file__).parent)])
    notebook = nbformat.read(path, 4)
    arrange(notebook, left_out="notebook-only")
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return page
