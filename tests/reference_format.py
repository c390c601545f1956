"""How reference files are written: outputs as a few values and checksums, inputs and constructors
in words.
"""

import ast
import re

import closed_form as cf
import pytest
import torch


def agree(x: torch.Tensor, expected: dict, atol: float = 1e-4) -> None:
    """Asserts that a tensor has the shape, values and checksum that a reference file states."""
    assert list(x.shape) == list(expected["shape"])
    flat = x.detach().double().flatten()
    parts = [
        (expected["first32"], flat[: len(expected["first32"])]),
        (expected["last8"], flat[-len(expected["last8"]) :]),
    ]
    if "full" in expected:
        parts.append((expected["full"], flat))
    for values, ours in parts:
        values = torch.tensor(values, dtype=torch.float64).flatten()
        torch.testing.assert_close(ours, values, rtol=0, atol=atol)
    assert cf.checksum(x) == pytest.approx(expected["dot_with_v(3000)"], abs=1e-3)
    assert flat.std(unbiased=False).item() == pytest.approx(expected["std"], abs=2e-3)


def close(ours, expected, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Asserts that two nested lists or tensors of numbers are equal."""
    ours, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (ours, expected))
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol)


def inputs(text: str) -> list[torch.Tensor]:
    """The tensors that "... inp((2,16,6,5),0) ..." speaks of, in the order of the text."""
    found = re.findall(r"inp\(\(([\d,]+)\),(\d+)\)", text)
    return [cf.given(tuple(map(int, shape.split(","))), int(k)) for shape, k in found]


def described(text: str) -> dict:
    """Every "name=value" in a description, the values as numbers and tuples where they are."""
    found = {}
    value = r"\[[^\]]*\]|\([^)]*\)|[^\s,;()=\[\]]+"
    for name, word in re.findall(rf"(\w+)=({value})", text):
        try:
            found[name] = ast.literal_eval(word)
        except (ValueError, SyntaxError):
            found[name] = word
    return found


def call(text: str) -> tuple[str, list[int]]:
    """The name and the plain numbers of "Name(16,24,groups=4)": ("Name", [16, 24])."""
    name, numbers = re.match(r"([\w.]+)\(((?:\d+,?)*)", text).groups()
    return name, [int(n) for n in numbers.split(",") if n]


def only(d: dict, *known: str) -> None:
    """Fails where a file, or a part of one, has entries that no test reads; these are named."""
    unknown = [key for key in d if key not in known]
    assert not unknown, f"no test knows {', '.join(unknown)}"


def load(module: torch.nn.Module, names: dict[str, str], order: list) -> torch.nn.Module:
    """The module in evaluation mode, with the closed-form weights of a file's `order`.

    `names`: the released name of each of its parameters. The order must be the released one, too.
    """
    assert list(names.values()) == [key for _, key, _ in order]
    state = cf.state(order)
    module.load_state_dict({ours: state[released] for ours, released in names.items()})
    return module.eval()
