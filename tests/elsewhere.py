"""A device for tests on machines without a GPU: torch's "meta", which holds shapes and no numbers.

Whatever meets on two devices, or makes the processor wait for a result, is seen. On a GPU such code
stops (a tensor of the CPU beside one of the card) or is slow (a copy, a wait); here it is an error
or counted. Where there is a GPU, the tests that use this run there, too.
"""

import contextlib
from collections import Counter

import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from gmmt import compute

PLACES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
COPIES = ("_to_copy", "copy_", "_foreach_copy_")
WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2")


class Traffic(TorchDispatchMode):
    """Counts `uploads`, `downloads` and `waits`, by operation and where it was called from; an
    AssertionError if tensors of both devices meet.
    """

    def __init__(self, numbers: bool):
        """`numbers`: the device has some, as a GPU; on "meta" they are made up."""
        super().__init__()
        self.numbers = numbers
        self.uploads, self.downloads, self.waits = Counter(), Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
        there = any(v.device.type != "cpu" for v in given)
        # A number in a tensor of the CPU is read at once, as any number is.
        here = any(v.device.type == "cpu" and v.ndim > 0 for v in given)
        masked = name in ("index", "index_put_") and any(v.dtype == torch.bool for v in given[1:])
        if masked and there:
            raise AssertionError(f"{name} by a mask waits for the device")
        if name in WAITS and there:
            self.waits[name] += 1
            if name == "_local_scalar_dense":
                return func(*args, **kwargs) if self.numbers else True
            raise AssertionError(f"{name} waits for the device: its result has no size until then")
        if name == "_to_copy":
            to = kwargs.get("device")
            if to is not None and there and torch.device(to).type == "cpu":
                self.downloads[name] += 1
                if not self.numbers:
                    return torch.ones(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
            if to is not None and here and torch.device(to).type != "cpu":
                self.uploads[tuple(given[0].shape)] += 1
        elif name == "copy_" and there and given[0].device.type == "cpu":
            self.downloads[name] += 1
            if not self.numbers:
                return given[0]
        elif name == "copy_" and here and there:
            self.uploads[tuple(given[0].shape)] += 1
        elif here and there:
            shapes = [(v.device.type, tuple(v.shape)) for v in given]
            raise AssertionError(f"{name} is given tensors of two devices: {shapes}")
        return func(*args, **kwargs)


class Made(TorchFunctionMode):
    """Counts tensors that are made of numbers of the CPU, but on the device, as uploads."""

    def __init__(self, traffic: Traffic):
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            source = args[1] if func is torch.Tensor.new_tensor else args[0]
            if made.device.type != "cpu" and not isinstance(source, torch.Tensor):
                self.traffic.uploads[tuple(made.shape)] += 1
        return made


@contextlib.contextmanager
def device(monkeypatch, place: str):
    """A place for all that asks gmmt.compute, and what crosses over to it."""
    where = torch.device(place)
    monkeypatch.setattr(compute, "device", lambda: where)
    monkeypatch.setattr(Accelerator, "device", property(lambda _: where))
    if place == "meta":  # which knows no autocast
        real = torch.autocast
        kind = type("Autocast", (), {"__new__": lambda _, kind, *a, **k: real("cpu", *a, **k)})
        monkeypatch.setattr(torch, "autocast", kind)
    with Traffic(numbers=place != "meta") as traffic, Made(traffic):
        yield traffic
