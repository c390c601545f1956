"""Outputs of the released code on closed-form weights and inputs, against ours.

    pytest tests/test_reference.py --reference DIR

tests every JSON file of a folder (default: tests/reference). A file is recognised by what it holds,
and our modules are built from what it says of the released ones. A file, or a part of one, that no
test here knows fails, by name.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "reference_format", "reference_networks", "reference_trackers", "reference_tracking_ops"
)
import reference_networks as networks  # noqa: E402
import reference_trackers as trackers  # noqa: E402
import reference_tracking_ops as tracking_ops  # noqa: E402

Check = Callable[[dict], None]


def checks_of(d: dict) -> list[Check]:
    """What is tested of a file with this content; nothing where no test knows it."""
    if not isinstance(d, dict) or not d:
        return []
    if "meta" in d and "keys" in d:
        return checks_of_names(d["meta"])
    if isinstance(d.get("ctor"), dict) and "inner_channel" in d["ctor"]:
        return [networks.unet_output, networks.unet_output_in_double_precision]
    if isinstance(d.get("ctor"), dict) and "embed_dim" in d["ctor"]:
        return [networks.uvit_output]
    if "noise_level" in d:
        return [networks.embeddings]
    if all(name.startswith(("UNet.", "UViT.")) for name in d):
        return [networks.blocks]
    if "cases" in d and "UViT order" in d:
        return [
            networks.cases_of_the_diffusion_are_known,
            networks.training_losses,
            networks.predictions,
            networks.elementary_steps,
        ]
    if all(T.isdecimal() and "betas" in part for T, part in d.items()):
        return [networks.schedule]
    if all(T.isdecimal() and "1" in part for T, part in d.items()):
        return [networks.time_grids]
    if "xcorr_depthwise" in d:
        return [trackers.siamban_head]
    if str(d.get("ctor")).startswith("VisionTransformerTBSI("):
        return [trackers.tbsi_output]
    if any(name.startswith("TBSILayer(") for name in d):
        return [trackers.tbsi_layer_and_head]
    if any(name.startswith("Prompt_block(") for name in d):
        return [trackers.vipt_output, trackers.vipt_prompt_block]
    if "A_sample_target" in d:
        return [tracking_ops.every_section_has_its_place, *tracking_ops.checks_of_sections(d)]
    return []


def checks_of_names(meta: dict) -> list[Check]:
    """What is tested of a list of names and shapes."""
    made_by = meta.get("ctor") or meta.get("source", "")
    if made_by.startswith(("UNet(", "UViT(")):
        return [networks.network_keys]
    if made_by.startswith("LDDiffuse("):
        return [networks.schedule_keys]
    if made_by.startswith("hqucv/siamban modules, used_layers=[3]"):
        return [trackers.siamban_keys]
    if made_by.startswith("hqucv/siamban") and made_by.endswith("siamban_r50_l234"):
        return [trackers.siamban_with_three_levels_keys]
    if any(name in made_by for name in ("botaoye/OSTrack", "jiawen-zhu/ViPT", "RyanHTR/TBSI")):
        return [trackers.tracker_keys]
    return []


def nobody_knows_it(d: dict) -> None:
    """Stands in the place of a check where there is none."""


def cases_of(folder: Path) -> list:
    """Each file of a folder with each of its checks."""
    cases = []
    for path in sorted(folder.glob("*.json")):
        try:
            checks = checks_of(json.loads(path.read_text())) or [nobody_knows_it]
        except ValueError:
            checks = [nobody_knows_it]
        cases += [pytest.param(path, c, id=f"{path.stem}-{c.__name__}") for c in checks]
    return cases


def pytest_generate_tests(metafunc):
    if "check" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--reference")
        folder = Path(chosen) if chosen else Path(__file__).parent / "reference"
        cases = cases_of(folder)
        if not cases:
            raise pytest.UsageError(f"--reference {folder}: there is no JSON file")
        metafunc.parametrize(("path", "check"), cases)


def test_the_released_code_gives_the_same(path, check):
    if check is nobody_knows_it:
        pytest.fail(f"{path}: no test knows what this file holds", pytrace=False)
    check(json.loads(path.read_text()))


def test_tracking_ops_where_the_reference_material_is(shared):
    """It is too large for tests/reference, and holds more than is tested here."""
    d = json.loads((shared / "reference" / "tracking_ops.json").read_text())
    for check in checks_of(d):
        check(d)


# --- the tests above can fail ---------------------------------------------------------------------


def changed(tmp_path, name: str, change: Callable[[dict], None]) -> list:
    """Cases of a folder that holds one file of tests/reference, changed."""
    d = json.loads((Path(__file__).parent / "reference" / name).read_text())
    change(d)
    (tmp_path / name).write_text(json.dumps(d))
    return [case.values for case in cases_of(tmp_path)]


def run_all(cases: list) -> None:
    for path, check in cases:
        test_the_released_code_gives_the_same(path, check)


def test_a_new_file_is_tested_whatever_its_name(tmp_path):
    content = (Path(__file__).parent / "reference" / "unet_tiny_x3.json").read_text()
    (tmp_path / "anything.json").write_text(content)
    assert [case.id for case in cases_of(tmp_path)] == [
        "anything-unet_output",
        "anything-unet_output_in_double_precision",
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"a": 1}', '{"meta": {"source": "x"}, "keys": {}}', '{"ctor": {}}']
)
def test_an_unknown_file_fails_by_name(content, tmp_path):
    (tmp_path / "unet_new.json").write_text(content)
    (case,) = cases_of(tmp_path)
    assert "unet_new" in case.id
    with pytest.raises(pytest.fail.Exception, match=r"unet_new\.json: no test knows what this"):
        test_the_released_code_gives_the_same(*case.values)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gm_blocks.json", lambda d: d.update({"UNet.Mix(3)": d["UNet.Downsample(16)"]}), "Mix"),
        ("embeddings.json", lambda d: d.update({"Fourier(dim=3)": []}), "Fourier"),
        ("uvit_tiny.json", lambda d: d.update(output_half={}), "output_half"),
        ("lddiffuse_small.json", lambda d: d["cases"].update({"UNet x5": {}}), "UNet x5"),
        ("vipt_small.json", lambda d: d.update(cx=d["ce"]), "cx"),
    ],
)
def test_an_unknown_part_of_a_file_fails_by_name(name, change, words, tmp_path):
    cases = changed(tmp_path, name, change)
    with pytest.raises(AssertionError, match=words):
        run_all(cases)


def test_an_unknown_section_of_tracking_ops_fails_by_name():
    known = dict.fromkeys(["crops_3ch", "with_mask"])
    tracking_ops.every_section_has_its_place({"A_sample_target": known})
    with pytest.raises(AssertionError, match=r"no test knows the sections A_sample_target\.new"):
        tracking_ops.every_section_has_its_place({"A_sample_target": known | {"new": 1}})
    with pytest.raises(AssertionError, match=r"D_siamban\.training\.new"):
        tracking_ops.every_section_has_its_place({"D_siamban": {"training": {"new": 1}}})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet_tiny_x3.json", lambda d: d["ctor"].update(norm_groups=2)),
        ("unet_tiny_x3.json", lambda d: d["ctor"].update(attn_res=[8])),
        ("uvit_tiny.json", lambda d: d["ctor"].update(num_heads=4)),
        ("unet_siam256_x3_keys.json", lambda d: d["meta"].update(ctor="UNet() in_channel*3")),
        ("uvit_full_depth2_keys.json", lambda d: d["keys"].popitem()),
        ("lddiffuse_buffer_keys.json", lambda d: d["keys"].update(alphas=[1000])),
        ("tbsi_small.json", lambda d: d.update(ctor=d["ctor"].replace("[1,2]", "[0,2]"))),
        ("vipt_deep_rgbt_full_keys.json", lambda d: d["keys"].update(sideways=[3])),
    ],
)
def test_another_description_gives_another_answer(name, change, tmp_path):
    cases = changed(tmp_path, name, change)
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        run_all(cases)
