"""Notebooks: run in the batch, or executed in place."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gmmt.data.manifest import sha256
from gmmt.errors import SettingError, did_you_mean
from gmmt.files import atomic_write, write_json
from gmmt.notebook import BATCH, threads_wanted
from gmmt.provenance import git_commit, now, versions
from workflow.jobs import SOURCES, Job, notebook_names, refresh_data_state, runs_dir
from workflow.processes import cores, set_environment
from workflow.progress import duration, last_line, note_end, tail, total_time


def this_python():
    """Returns the kernel manager class that starts the very Python that runs this.

    A kernel called python3 is looked up in $JUPYTER_PATH first and, outside virtual environments,
    in the user's folder next, and may be another Python; here nothing is looked up. A kernel that
    can encrypt its sockets is asked to, or ipykernel warns at every start.
    """
    import zmq
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

        @default("transport_encryption")
        def _transport_encryption(self):
            return "auto" if zmq.has("curve") else "disabled"

    return ThisPython


def run_notebook(job: Job, threads: int) -> bool:
    """Returns whether a notebook ran to its end. What it executed is kept either way, and status/
    says how it went.
    """
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    print(f"start  {job}", flush=True)
    runs = runs_dir()
    variant = Path(job.folder).parents[1].relative_to(runs)
    set_environment(threads, **{"GMMT_RUNS": str(runs.absolute()), BATCH: str(variant)})
    own_folder = Path(job.folder, job.name)
    own_folder.mkdir(parents=True, exist_ok=True)
    job.failed.unlink(missing_ok=True)
    started, clock, error, report = now(), time.monotonic(), "", ""
    try:
        papermill.execute_notebook(
            jupytext.read(SOURCES / f"{job.name}.py"),
            job.executed,
            parameters={"profile": job.profile, "seed": job.seed, **job.overrides},
            # what a notebook writes by a relative path at least lands among its own
            cwd=own_folder,
            progress_bar=False,
            kernel_name="python3",
            kernel_manager_class=this_python(),
        )
    except PapermillExecutionError as stop:
        error, report = (
            f"{stop.ename}: {stop.evalue}",
            f"{job} failed in cell In [{stop.exec_count}]:\n" + tail("\n".join(stop.traceback)),
        )
    except Exception as stop:  # a kernel that died, for want of memory for example
        error, report = f"{type(stop).__name__}: {stop}", f"{job} broke off:\n" + tail(str(stop))
        add_banner(job.executed, error)
    seconds = round(time.monotonic() - clock, 1)
    headline = own_folder / "headline.txt"
    record = {
        "status": "failed" if error else "ok",
        "notebook": job.name,
        "profile": job.profile,
        "seed": job.seed,
    }
    record |= {
        "parameters": job.overrides,
        "started": started,
        "seconds": seconds,
        "threads": threads,
        "error": last_line(error),
    }
    record |= {
        "headline": headline.read_text(encoding="utf-8").strip() if headline.is_file() else ""
    }
    record |= {"commit": git_commit(), "versions": versions()}
    files = [path for path in (job.executed, *sorted(own_folder.rglob("*"))) if path.is_file()]
    record |= {"files": {path.relative_to(job.folder).as_posix(): sha256(path) for path in files}}
    write_json(job.failed if error else job.status, record)
    print(
        f"{note_end(job, ok=not error)} {'FAILED ' * bool(error)}{job}  {duration(seconds)}  "
        f"(total {total_time()})",
        flush=True,
    )
    if error:
        print(f"\n{report}\nKept as far as it got, with the error: {job.executed}\n", flush=True)
    return not error


def add_banner(path: Path, error: str) -> None:
    """Puts the error at the head of a kept notebook whose kernel died, since no cell of it holds
    one.
    """
    import nbformat

    if path.is_file():
        nb = nbformat.read(path, as_version=4)
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run broke off:** {error}"))
        nbformat.write(nb, path)


def refresh(name: str) -> bool:
    """Returns whether notebooks/NAME.ipynb could be made anew from its text form, executed as it
    stands.
    """
    import jupytext
    import nbformat
    from jupytext.config import load_jupytext_config
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    source, target, kept = (
        SOURCES / f"{name}.py",
        SOURCES.parent / f"{name}.ipynb",
        Path("runs", "failed", f"{name}.ipynb"),
    )
    nb, clock = jupytext.read(source, config=load_jupytext_config(str(source))), time.monotonic()
    if target.is_file() and target.stat().st_mtime > source.stat().st_mtime + 1:
        stored = nbformat.read(target, as_version=4)
        if [cell.source.strip() for cell in stored.cells] != [
            cell.source.strip() for cell in nb.cells
        ]:
            print(
                f"{target} is newer than {source} and differs. Keep its text: jupytext --sync "
                f"{target}; or drop it: touch {source}"
            )
            return False
    kept.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "resources": {"metadata": {"path": str(kept.parent)}},
        "record_timing": False,
        "coalesce_streams": True,
    }
    try:
        NotebookClient(
            nb, kernel_name="python3", kernel_manager_class=this_python(), **options
        ).execute()
    except (CellExecutionError, RuntimeError) as error:
        nbformat.write(nb, kept)
        print(
            f"FAILED {name}:\n{tail(str(error))}\nKept as far as it got: {kept}; {target} is "
            "as it was.",
            flush=True,
        )
        return False
    # What jupytext itself would store, and nothing that changes from run to run or machine to
    # machine, so that a diff shows what changed.
    nb.metadata.get("jupytext", {}).pop("text_representation", None)
    nb.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    nb.metadata["language_info"].pop("version", None)
    for index, cell in enumerate(nb.cells, start=1):
        cell["id"] = f"cell-{index:02d}"
    nbformat.validate(nb)
    with atomic_write(target) as file:
        nbformat.write(nb, file)
    os.utime(source)  # the text form leads: JupyterLab refuses a pair whose .ipynb is newer
    print(f"{name}  {duration(time.monotonic() - clock)}", flush=True)
    return True


def refresh_all(names: list[str], at_a_time: int) -> int:
    """Returns the exit status of executing notebooks in place, the ones named or all of them."""
    every = notebook_names()
    for name in names:
        if name not in every:
            raise SettingError(
                f"There is no notebook {name!r} in {SOURCES}.{did_you_mean(name, every)}"
            )
    threads = threads_wanted() or max(1, cores() // at_a_time)
    refresh_data_state()
    set_environment(threads, GMMT_PROFILE="cpu")
    with ThreadPoolExecutor(at_a_time) as pool:
        return 0 if all(list(pool.map(refresh, names or every))) else 1
