"""Data sets on a disk: tiny trees in the real layouts, every quirk of them, and what bad ones are
told.
"""

import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from trees import SHORT, VTUAV_FRAMES, make_sequence, make_tree

from gmmt.data.benchmarks import ground_truth, rgbt_folder, sequence_names
from gmmt.data.datasets import dataset_truth, open_dataset
from gmmt.data.layouts import KINDS, dataset
from gmmt.data.sequence import RGBT, Sequence
from gmmt.errors import GmmtError, ResultFileError, SettingError

pytestmark = pytest.mark.filterwarnings("error")

SPLITS = [(name, split) for name, splits in SHORT.items() for split in splits]
ROWS = {"fastCar2": 40, "RainyCar1": 60, "mototurntous": 32, "redminirtruck": 40}
ROWS |= {"silvercarcome": 37, "lowerfoamboard": 33, "whitecarturnleft": 57}
"""Their numbers of frames."""


@pytest.fixture(autouse=True)
def _own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A function name -> root of its tiny tree, which no test changes."""
    made = {}

    def tree(name):
        if name not in made:
            made[name] = make_tree(name, tmp_path_factory.mktemp(name))
        return made[name]

    return tree


def one(name, root, split=None) -> Sequence:
    (sequence,) = open_dataset(name, root, split, part=True)
    return sequence


def numbers(path) -> np.ndarray:
    """The numbers of a file, read in another way than the package does."""
    lines = path.read_text().split("\n")
    return np.array([re.findall(r"-?\d+", line) for line in lines if line.strip()], float)


# --- one interface --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_a_data_set_is_a_list_of_sequences(trees, name, split):
    found = open_dataset(name, trees(name), split, part=True)
    assert [sequence.name for sequence in found] == list(SHORT[name][split])
    for sequence in found:
        assert type(sequence) is Sequence
        assert sequence.modalities == RGBT
        assert sequence.boxes.dtype == np.float64
        assert sequence.present.dtype == bool
        assert len(sequence) == ROWS.get(sequence.name, len(sequence))
        known = np.isfinite(sequence.boxes).all(1)
        assert known[0]
        for i in (0, int(np.flatnonzero(known)[-1])):
            frame = sequence.frame(i)
            assert frame.dtype == np.uint8
            assert frame.shape == (4, *sequence.size)
            # Something bright is in the box, in both modalities.
            x, y, w, h = sequence.boxes[i].astype(int)
            inside = frame[:, max(y, 0) + 2 : y + h - 2, max(x, 0) + 2 : x + w - 2]
            assert (inside.mean((1, 2)) > frame.mean((1, 2)) + 30).all()


@pytest.mark.parametrize("name", ["gtot", "rgbt210", "rgbt234", "lasher"])
def test_truth_in_a_folder_is_the_benchmarks(trees, name):
    ours, theirs = dataset_truth(name, trees(name), "test", part=True), ground_truth(name)
    assert ours.sequences == SHORT[name]["test"]
    for sequence, every in ours.boxes.items():
        assert len(every) == len(theirs.boxes[sequence])
        for a, b in zip(every, theirs.boxes[sequence], strict=True):
            np.testing.assert_array_equal(a, b)
    assert ours.annotated == {}


def test_frames_are_the_pixels_of_the_files(trees):
    root = trees("gtot")
    sequence = open_dataset("gtot", root, part=True)[0]
    for i, ending in ((0, "png"), (9, "bmp")):
        frame = sequence.frame(i)
        with Image.open(root / "fastCar2" / "v" / f"{i + 1:05d}.{ending}") as image:
            np.testing.assert_array_equal(frame[:3], np.asarray(image).transpose(2, 0, 1))
        with Image.open(root / "fastCar2" / "i" / f"{i + 1:05d}.{ending}") as image:
            np.testing.assert_array_equal(frame[3], np.asarray(image))


def test_frames_go_to_other_processes_and_come_smaller(trees):
    sequence = open_dataset("lasher", trees("lasher"), "train", part=True)[1]
    packed = pickle.dumps(sequence.frame)
    assert len(packed) < 40 * 2 * 20 + 1000
    again, whole = pickle.loads(packed), sequence.frame(5)
    np.testing.assert_array_equal(again(5), whole)
    half = again.reduced(5, 2)
    assert half.shape == (4, 240, 320)
    blocks = whole.reshape(4, 240, 2, 320, 2).mean((2, 4))
    assert abs(half - blocks).mean() < 3


def test_the_public_lists_give_979_and_245(tmp_path):
    data = dataset("lasher", tmp_path)
    for split, folder, n in (("train", "trainingset", 979), ("test", "testingset", 245)):
        for name in data.layout["splits"][split]["rows"]:
            (tmp_path / folder / name).mkdir(parents=True)
        assert len(data.folders(split, part=False)) == n
    assert tuple(data.folders("test", part=False)) == sequence_names("lasher")
    assert not data.folders("train", False).keys() & data.folders("test", False).keys()
    shutil.rmtree(tmp_path / "testingset" / "blackdown")
    with pytest.raises(SettingError, match=r"244 of 245 .*; missing: blackdown\. .*--part takes"):
        open_dataset("lasher", tmp_path, "test")


@pytest.mark.parametrize("name", ["gtot", "rgbt210", "rgbt234"])
def test_sequences_come_in_the_benchmarks_order(name, tmp_path):
    for sequence in sorted(sequence_names(name)):
        (tmp_path / sequence).mkdir()
    assert tuple(dataset(name, tmp_path).folders("test", False)) == sequence_names(name)


def test_splits_and_names_that_there_are_not(trees, tmp_path):
    for split in (None, "val"):
        with pytest.raises(
            SettingError, match=r"lasher has the splits train, test; .* not " + f"{split}"
        ):
            open_dataset("lasher", trees("lasher"), split)
    with pytest.raises(SettingError, match="vtuav has the splits all"):
        open_dataset("vtuav", trees("vtuav"), "train")
    with pytest.raises(SettingError, match=r"'rgbt235'; expected one of .*Did you mean rgbt234\?"):
        open_dataset("rgbt235", tmp_path)
    with pytest.raises(SettingError, match=r"testingset: no such folder; .*gmmt fetch lasher"):
        open_dataset("lasher", tmp_path, "test", part=True)
    with pytest.raises(SettingError, match=r"0 of 50 sequences are there"):
        open_dataset("gtot", tmp_path, part=True)


def test_attributes_come_from_the_folder(trees, tmp_path):
    assert dataset_truth("rgbt234", trees("rgbt234"), part=True).attributes == {}
    make_sequence("rgbt234", tmp_path / "dog", images=False)
    shutil.copytree(rgbt_folder() / "RGBT234" / "attr_txt", tmp_path / "attr_txt")
    found, every = dataset_truth("rgbt234", tmp_path, part=True), ground_truth("rgbt234")
    carried = {a for a, names in every.attributes.items() if "dog" in names}
    assert carried
    assert {a for a, names in found.attributes.items() if names == ("dog",)} == carried


# --- quirks of each -------------------------------------------------------------------------------


def test_gtot_has_two_corners_in_any_order_of_both_modalities(tmp_path):
    folder = make_sequence("gtot", tmp_path / "fastCar2", images=False)
    truth = {}
    for m in "vi":
        path = folder / f"groundTruth_{m}.txt"
        x1, y1, x2, y2 = numbers(path).T
        truth[m] = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
        swapped = np.stack([x2, y1, x1, y2], axis=1)
        swapped[1::2] = np.stack([x2, y2, x1, y1], axis=1)[1::2]
        np.savetxt(path, swapped, fmt="%d")
    sequence = one("gtot", tmp_path)
    np.testing.assert_array_equal(sequence.boxes, truth["v"])
    visible, thermal = dataset_truth("gtot", tmp_path, part=True).boxes["fastCar2"]
    np.testing.assert_array_equal(visible, truth["v"])
    np.testing.assert_array_equal(thermal, truth["i"])
    assert (visible != thermal).any()
    (folder / "groundTruth_v.txt").unlink()
    (folder / "groundTruth_i.txt").unlink()
    with pytest.warns(UserWarning, match=r"groundTruth_v.txt: missing; .* from init.txt"):
        np.testing.assert_array_equal(one("gtot", tmp_path).boxes, truth["v"])


def test_orangeman1_has_a_surplus_first_row(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "orangeman1", images=False)
    rows = numbers(folder / "visible.txt")
    np.testing.assert_array_equal(one("rgbt234", tmp_path).boxes, rows)  # as many images as rows
    for side in ("visible", "infrared"):
        max((folder / side).iterdir()).unlink()
    sequence = one("rgbt234", tmp_path)
    assert (len(rows), len(sequence)) == (921, 920)
    np.testing.assert_array_equal(sequence.boxes, rows[1:])
    truth = dataset_truth("rgbt234", tmp_path, part=True).boxes["orangeman1"]
    np.testing.assert_array_equal(truth[0], rows)


def test_man4_lacks_its_last_row(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "man4", images=False)
    for side, letter in (("visible", "v"), ("infrared", "i")):
        shutil.copy(max((folder / side).iterdir()), folder / side / f"99999{letter}.jpg")
    sequence = one("rgbt234", tmp_path)
    assert len(sequence) == 590
    np.testing.assert_array_equal(sequence.boxes[:589], numbers(folder / "visible.txt"))
    assert np.isnan(sequence.boxes[589]).all()
    assert sequence.present[589]
    (folder / "visible" / "99998v.jpg").hardlink_to(folder / "visible" / "99999v.jpg")
    (folder / "infrared" / "99998i.jpg").hardlink_to(folder / "infrared" / "99999i.jpg")
    with pytest.raises(ResultFileError, match=r"visible.txt: 589 rows for 591 images"):
        one("rgbt234", tmp_path)


def test_a_lone_carriage_return_ends_a_row_of_kite2(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "kite2", images=False)
    assert re.search(rb"\r[^\n]", (folder / "infrared.txt").read_bytes())
    visible, thermal = dataset_truth("rgbt234", tmp_path, part=True).boxes["kite2"]
    assert len(visible) == len(thermal) == 1623
    assert len(one("rgbt234", tmp_path)) == 1623


def test_every_way_of_naming_images_is_read_in_order(trees):
    names = {}
    for name, split in (("lasher", "train"), ("lasher", "test"), ("rgbt234", None)):
        for sequence in open_dataset(name, trees(name), split, part=True):
            files = [[sequence.frame.path(k, i) for i in range(len(sequence))] for k in (0, 1)]
            names[sequence.name] = (files[0][10].name, files[1][10].name)
            for paths in files:
                count = [int(re.sub(r"\D", "", path.stem)) for path in paths]
                assert count == list(range(count[0], count[0] + len(sequence)))
                assert all(path.is_file() for path in paths)
    assert names["mototurntous"] == ("v000010.JPG", "i000010.JPG")
    assert names["lowerfoamboard"] == ("v010.jpg", "i010.jpg")
    assert names["silvercarcome"] == ("000011.jpg", "000011.jpg")
    assert names["dog"] == ("00010v.jpg", "00010i.jpg")


def test_lasher_without_visible_txt(tmp_path):
    folder = make_sequence("lasher", tmp_path / "trainingset" / "mototurntous", images=False)
    whole = one("lasher", tmp_path, "train").boxes
    for missing, used in (("visible", "infrared"), ("infrared", "init")):
        (folder / f"{missing}.txt").unlink()
        with pytest.warns(UserWarning, match=rf"visible.txt: missing; .* from {used}.txt"):
            np.testing.assert_array_equal(one("lasher", tmp_path, "train").boxes, whole)
        with pytest.warns(UserWarning, match=rf"visible.txt: missing; .* from {used}.txt"):
            truth = dataset_truth("lasher", tmp_path, "train", part=True)
        np.testing.assert_array_equal(truth.boxes["mototurntous"][0], whole)
    (folder / "init.txt").unlink()
    with pytest.raises(ResultFileError, match=r"mototurntous: no boxes; expected visible.txt"):
        one("lasher", tmp_path, "train")


def test_a_score_needs_the_boxes_of_both_modalities(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "dog", images=False)
    (folder / "visible.txt").unlink()
    with pytest.raises(ResultFileError, match=r"dog/visible.txt: missing; .* score needs"):
        dataset_truth("rgbt234", tmp_path, part=True)


def test_a_target_that_is_absent_has_no_box(trees):
    foam = open_dataset("lasher", trees("lasher"), "test", part=True)[0]
    rows = numbers(rgbt_folder() / "LasHeR" / "lasher_gt" / "lowerfoamboard.txt")
    zeros = (rows[:, 2:] == 0).all(1)
    assert zeros.sum() == 1
    np.testing.assert_array_equal(foam.present, ~zeros)
    np.testing.assert_array_equal(np.isnan(foam.boxes).all(1), zeros)
    np.testing.assert_array_equal(foam.boxes[~zeros], rows[~zeros])
    truth = dataset_truth("lasher", trees("lasher"), "test", part=True)
    np.testing.assert_array_equal(truth.boxes["lowerfoamboard"][0], rows)  # as in the file


def test_a_sequence_whose_first_row_is_no_box(tmp_path):
    folder = make_sequence("lasher", tmp_path / "trainingset" / "mototurntous", images=False)
    rows = numbers(folder / "visible.txt")
    rows[0] = 0
    np.savetxt(folder / "visible.txt", rows, fmt="%d", delimiter=",")
    with pytest.raises(ResultFileError, match=r"visible.txt: the first row is no box"):
        one("lasher", tmp_path, "train")


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    folder = make_sequence("lasher", tmp_path / "trainingset" / "mototurntous")
    victim = folder / "visible" / "v000018.JPG"
    victim.write_bytes(victim.read_bytes()[:3000])
    sequence = one("lasher", tmp_path, "train")
    sequence.frame(17)
    with pytest.raises(GmmtError, match=re.escape(str(victim))):
        sequence.frame(18)


def test_images_of_another_size_are_named_when_they_are_read(tmp_path):
    folder = make_sequence("lasher", tmp_path / "trainingset" / "mototurntous")
    sequence = one("lasher", tmp_path, "train")
    for side, name in (("visible", "v000003.JPG"), ("infrared", "i000004.JPG")):
        Image.new("RGB", (320, 240)).save(folder / side / name)
    for i, name in ((3, "v000003"), (4, "i000004")):
        with pytest.raises(GmmtError, match=rf"{name}.JPG: 320 x 240 pixels; expected 640 x 480"):
            sequence.frame(i)


def test_rgbt210_may_have_more_or_fewer_rows_than_images(tmp_path):
    folder = make_sequence("rgbt210", tmp_path / "dog", images=False)
    rows = numbers(folder / "init.txt")
    for side in ("visible", "infrared"):
        max((folder / side).iterdir()).unlink()
    with pytest.warns(UserWarning, match=r"init.txt: 45 rows for 44 images; .* first row is taken"):
        np.testing.assert_array_equal(one("rgbt210", tmp_path).boxes, rows[:44])
    np.savetxt(folder / "init.txt", rows[:40], fmt="%d", delimiter=",")
    with pytest.warns(UserWarning, match=r"init.txt: 40 rows for 44 images"):
        assert np.isnan(one("rgbt210", tmp_path).boxes).all(1).tolist() == [False] * 40 + [True] * 4


# --- VTUAV ----------------------------------------------------------------------------------------


def test_vtuav_has_a_row_for_every_tenth_frame(trees):
    bus, car = open_dataset("vtuav", trees("vtuav"))
    assert np.flatnonzero(np.isfinite(bus.boxes).all(1)).tolist() == [0, 10, 20, 30, 40]
    assert bus.present.all()
    np.testing.assert_array_equal(bus.boxes[::10, 0], [40, 120, 200, 280, 360])
    # init_frame.npy: the second begins with frame 3.
    assert len(car) == VTUAV_FRAMES - 3
    assert car.frame.path(0, 0).name == "000003.jpg"
    assert car.frame.path(1, 0).parent.name == "ir_gray"
    np.testing.assert_array_equal(car.boxes[::10, 0], [64, 144, 224, 304])
    truth = dataset_truth("vtuav", trees("vtuav"), "test")
    for sequence in (bus, car):
        rgb, thermal = truth.boxes[sequence.name]
        known = np.isfinite(sequence.boxes).all(1)
        np.testing.assert_array_equal(truth.annotated[sequence.name], known)
        np.testing.assert_array_equal(rgb, sequence.boxes[known])
        np.testing.assert_array_equal(thermal - rgb, [[2, -1, 1, 1]] * len(rgb))


def test_vtuav_with_absent_targets_and_wrong_numbers_of_rows(tmp_path):
    folder = make_sequence("vtuav", tmp_path / "bus_001", images=False)
    rows = numbers(folder / "rgb.txt")
    rows[[0, 2]] = 0
    np.savetxt(folder / "rgb.txt", rows, fmt="%d")
    sequence = one("vtuav", tmp_path)
    assert len(sequence) == VTUAV_FRAMES - 10  # it begins with the first box
    assert np.flatnonzero(~sequence.present).tolist() == [10]
    truth = dataset_truth("vtuav", tmp_path)
    assert np.flatnonzero(truth.annotated["bus_001"]).tolist() == [0, 10, 20, 30]
    np.testing.assert_array_equal(truth.boxes["bus_001"][0], rows[1:])
    for n in (3, 6):
        np.savetxt(folder / "rgb.txt", np.tile(rows[1], (n, 1)), fmt="%d")
        with pytest.raises(ResultFileError, match=rf"rgb.txt: {n} rows, one for every 10 frames"):
            one("vtuav", tmp_path)
    every = np.tile(rows[1], (VTUAV_FRAMES, 1))
    np.savetxt(folder / "rgb.txt", every, fmt="%d")
    np.testing.assert_array_equal(one("vtuav", tmp_path).boxes, every)
    with pytest.raises(ResultFileError, match=r"41 and 5 rows of the two modalities"):
        dataset_truth("vtuav", tmp_path)


def test_a_real_sequence_of_vtuav(shared, tmp_path):
    (tmp_path / "bus1").symlink_to(shared / "data" / "real" / "vtuav_bus1")
    bus = one("vtuav", tmp_path)
    assert (len(bus), bus.size, bus.frame(100).shape) == (101, (1080, 1920), (4, 1080, 1920))
    known = np.isfinite(bus.boxes).all(1)
    assert np.flatnonzero(known).tolist() == list(range(0, 101, 10))


# --- folders as people leave them -----------------------------------------------------------------


def test_what_systems_hide_is_no_image(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "dog", images=False)
    for name in (".DS_Store", "._00001v.jpg", "Thumbs.db"):
        (folder / "visible" / name).write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "__MACOSX" / "rgb").mkdir(parents=True)
    assert len(one("rgbt234", tmp_path)) == 45
    make_sequence("vtuav", tmp_path / "bus_001", images=False)
    assert one("vtuav", tmp_path).name == "bus_001"


def test_the_first_image_without_a_partner_is_named(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "dog", images=False)
    (folder / "infrared" / "00007i.jpg").unlink()
    words = r"dog: 45 RGB and 44 thermal images; visible/00007v.jpg is the first without a partner"
    with pytest.raises(SettingError, match=words):
        one("rgbt234", tmp_path)
    (folder / "visible" / "00003v.jpg").unlink()
    words = r"44 RGB and 44 thermal .*visible/00007v.jpg is .*: paired in their order"
    (folder / "visible.txt").write_text("10,10,20,20\n" * 44)
    with pytest.warns(UserWarning, match=words):
        one("rgbt234", tmp_path)


def test_a_camera_may_count_from_another_number(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "dog", images=False)
    for path in sorted((folder / "infrared").iterdir()):
        path.rename(path.with_name(f"{int(path.name[:5]) + 1000}i.jpg"))
    sequence = one("rgbt234", tmp_path)
    assert sequence.frame.path(1, 3).name == "1003i.jpg"


def test_a_manifest_may_allow_a_camera_an_image_more(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "man4", images=False)
    last = max((folder / "visible").iterdir())
    (folder / "visible" / "99999v.jpg").hardlink_to(last)
    assert len(one("rgbt234", tmp_path)) == 589
    (folder / "visible" / "99999v.jpg").unlink()
    (folder / "infrared" / "00000i.jpg").unlink()  # at the beginning: then no pair would be one
    with pytest.raises(SettingError, match=r"visible/00000v.jpg is the first without a partner"):
        one("rgbt234", tmp_path)
    (folder / "visible" / "00000v.jpg").unlink()
    (folder / "visible" / "00300v.jpg").unlink()
    with pytest.raises(SettingError, match=r"infrared/00300i.jpg is the first without a partner"):
        one("rgbt234", tmp_path)


def test_a_sequence_without_one_of_its_folders(tmp_path):
    folder = make_sequence("rgbt234", tmp_path / "dog", images=False)
    shutil.rmtree(folder / "infrared")
    with pytest.raises(SettingError, match=r"dog: no folder infrared; expected .*visible,infrared"):
        one("rgbt234", tmp_path)


def test_part_opens_what_is_there(trees):
    with pytest.raises(SettingError, match=r"2 of 50 sequences are there .*BlackCar, BlackSwan1"):
        open_dataset("gtot", trees("gtot"))
    with pytest.raises(SettingError, match=r"2 of 50 sequences are there"):
        dataset_truth("gtot", trees("gtot"))
    assert len(open_dataset("gtot", trees("gtot"), part=True)) == 2


def test_rgbd_has_a_place_but_no_reader_yet(tmp_path):
    assert set(KINDS) == set(SHORT)
    with pytest.raises(SettingError, match="no data set is called 'depthtrack'"):
        open_dataset("depthtrack", tmp_path)
