"""On what the numbers are computed: the device, its precision, torch's threads. One place
decides.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import is_tensorboard_available
from torch.nn.attention import SDPBackend, sdpa_kernel

from gmmt.errors import SettingError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# With it cuBLAS gives the same sums each time; it must be there before a GPU is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def device() -> torch.device:
    """Returns where networks, crops, schedule and noise are: this process's GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def accelerator(find_unused_parameters: bool = False, logs: Path | None = None) -> Accelerator:
    """Returns what knows this process's device, its rank, and the other processes; with `logs` it
    logs for TensorBoard, there. SettingError: TensorBoard is not installed.

    Autocast and the scaling of gradients are in `autocast` and `scaler`: an environment variable of
    Accelerate's cannot change the precision.
    """
    options = DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)
    more = {"mixed_precision": "no", "kwargs_handlers": [options]}
    if logs is not None:
        if not is_tensorboard_available():
            raise SettingError("--log needs TensorBoard: pip install tensorboard")
        more |= {"log_with": "tensorboard", "project_dir": logs}
    return Accelerator(cpu=device().type == "cpu", **more)


def autocast(place: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Returns a context in which networks run in `precision`: fp32, bf16 or fp16."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(place.type, DTYPES[precision])


def scaler(place: torch.device, precision: str) -> torch.amp.GradScaler:
    """Returns what scales a loss so that gradients in fp16 do not vanish; elsewhere it does
    nothing.
    """
    return torch.amp.GradScaler(place.type, enabled=precision == "fp16")


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Holds torch to n threads: sums on a CPU come out differently, in their last digits, with
    another number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def repeatable(place: torch.device) -> Iterator[None]:
    """Has a GPU add up in the same order each time: the same seed, the same weights. What torch
    cannot do so it warns of. A CPU always does.
    """
    if place.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # for debugging alone, and slow
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' gradients are sums in any order
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills


def describe(place: torch.device) -> str:
    """Returns what of the machine and of torch decides the last digits of a result."""
    if place.type == "cuda":
        name = torch.cuda.get_device_name(place)
    else:
        name = torch.backends.cpu.get_cpu_capability()
    return f"{place.type} {name}, torch {torch.__version__}"


def layout(module: torch.nn.Module, place: torch.device, fast: bool) -> None:
    """Puts a module on a device, in the layout that is fast there for convolutions, or in torch's
    own.

    Outside of training and tracking every module is in torch's own: what is measured on it must not
    depend on whether it was trained just now or loaded.
    """
    kind = torch.channels_last if fast else torch.contiguous_format
    module.to(place, memory_format=kind)


def halve(module: torch.nn.Module) -> None:
    """Casts weights to bf16, for tracking: half the bytes to be read. Batch norms, and what
    features are standardised by, stay in float32.
    """
    for part in module.modules():
        if not isinstance(part, torch.nn.BatchNorm2d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()


def download(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Starts to copy values to the CPU, and returns what waits for them and gives them."""
    if values.device.type != "cuda":
        return lambda: values
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(values.device))

    def wait() -> torch.Tensor:
        there.synchronize()
        return copy

    return wait
