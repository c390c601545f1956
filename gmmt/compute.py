"""On what the numbers are computed: the device, its precision, torch's threads. One place
decides.
"""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> torch.device:
    """Returns where networks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def accelerator(find_unused_parameters: bool = False) -> Accelerator:
    """Returns what knows this process's device, its rank, and the other processes.

    Autocast and the scaling of gradients are in `autocast` and `scaler`: an environment variable of
    Accelerate's cannot change the precision.
    """
    options = DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)
    return Accelerator(cpu=device().type == "cpu", mixed_precision="no", kwargs_handlers=[options])


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
