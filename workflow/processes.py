"""Processes of a batch: their share of the cores, and their end."""

import contextlib
import os
import signal
import threading
import time

import psutil

INTERRUPTED = 130
"""The exit status that shells know for Ctrl-C."""


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
    """Ends this process, and with it its kernel, when the Snakemake that started it is gone (no
    orphan may write into a later run's files), and upon Ctrl-C, without a word.
    """
    parent, heeds = os.getppid(), _heeds_interrupts()
    # Held back, and looked for: nbclient would take the signal, and tell of a kernel that died.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def watch():
        while os.getppid() == parent and not (heeds and signal.SIGINT in signal.sigpending()):
            time.sleep(0.2)
        _end()

    threading.Thread(target=watch, daemon=True).start()


def stop_when_interrupted() -> None:
    """Ends this process, and all that it started, at once upon Ctrl-C."""

    def stop(*_):
        os.write(2, b"\nInterrupted. What has ended is kept: run the same command to go on.\n")
        _end()

    if _heeds_interrupts():
        signal.signal(signal.SIGINT, stop)


def _heeds_interrupts() -> bool:
    """Returns False in the background of a script (`&`): Ctrl-C is then meant for others."""
    return signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def _end() -> None:
    """Ends this process and all that it started, at once: a kernel would tell of its parent."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(INTERRUPTED)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
