"""Processes of a batch: their share of the cores, and their end."""

import os
import threading
import time


def set_environment(threads: int, **variables: str) -> None:
    """Sets what kernels inherit from this process."""
    for name in ("GMMT_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # threads that spin while they wait bring a shared machine to a halt
    os.environ.pop(
        "MPLBACKEND", None
    )  # a setting of the shell would keep figures out of the notebook
    os.environ.update(variables)


def stop_with_parent() -> None:
    """Ends this process when the Snakemake that started it is gone, as its kernel does: no orphan
    may write into a later run's files.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
