"""Folders of result files: every layout that people bring, and what is said of those that lack."""

import warnings

import pytest

from gmmt.data.benchmarks import ground_truth
from gmmt.data.result_folders import read_result_files, result_files
from gmmt.errors import ResultFileError

NAMES = ("dog", "dog12", "man_walking", "Wo.man")


def fill(folder, names=NAMES, pattern="*.txt"):
    for name in names:
        path = folder / pattern.replace("*", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1 2 3 4\n")
    return folder


@pytest.mark.parametrize(
    "pattern",
    [
        "*.txt",
        "DFAT_*.txt",
        "my_tracker_*.txt",
        "TBSI-*.txt",
        "*_DFAT.txt",
        "dog_*.txt",  # a tracker that is called as a sequence
        "*_dog12.txt",
        "dog.*.v2.txt",
        "*.TXT",
        "*/*.txt",
        "*/visible.txt",
        "*/DFAT_*.txt",
        "TRACKER/*.txt",
        "results/TRACKER/*.txt",
        "one/two/three/*.txt",
    ],
)
def test_layouts(tmp_path, pattern):
    found = result_files(fill(tmp_path, pattern=pattern), NAMES)
    assert found == {name: tmp_path / pattern.replace("*", name) for name in NAMES}


def test_two_benchmarks_in_one_folder(tmp_path):
    names = {b: ground_truth(b).sequences for b in ("rgbt234", "lasher")}  # one is in both
    for sequences in names.values():
        fill(tmp_path, sequences)
    for benchmark, others in (("rgbt234", 244), ("lasher", 233)):
        with pytest.warns(UserWarning, match=f"{others} other text files"):
            assert len(result_files(tmp_path, names[benchmark])) == len(names[benchmark])


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_hidden_and_side_files_are_passed_over(tmp_path, no_warning):
    fill(tmp_path)
    for stray in ("._dog.txt", ".DS_Store", "__MACOSX/._dog.txt", "dog_time.txt", "dog12_fps.txt"):
        (tmp_path / stray).parent.mkdir(exist_ok=True)
        (tmp_path / stray).write_bytes(b"\0\5")
    fill(tmp_path / "__MACOSX", pattern="._*.txt")
    fill(tmp_path / ".cache")
    assert set(read_result_files(tmp_path, NAMES)) == set(NAMES)


def test_other_files_are_counted_in_one_warning(tmp_path):
    fill(tmp_path)
    fill(tmp_path, [f"car{i}" for i in range(20)])
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.warns(
        UserWarning, match="21 other text files passed over .*; 4 are scored"
    ) as seen:
        result_files(tmp_path, NAMES)
    assert len(seen) == 1


def test_the_folder_itself_with_plain_names_is_meant_and_rivals_are_told(tmp_path):
    fill(tmp_path)
    fill(tmp_path, pattern="*_base.txt")
    fill(tmp_path / "old")
    with pytest.warns(UserWarning, match="4 other text files passed over.*; results in .*old pas"):
        found = result_files(tmp_path, NAMES)
    assert found["dog"] == tmp_path / "dog.txt"


def test_files_in_any_case_in_linked_folders_and_as_csv(tmp_path, no_warning):
    fill(tmp_path / "there", [name.upper() for name in NAMES], "*.CSV")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "results").symlink_to(tmp_path / "there")
    found = result_files(tmp_path / "link", NAMES)
    assert found["man_walking"].name == "MAN_WALKING.CSV"


def test_rivals_beside_a_sequences_own_file_are_told(tmp_path):
    fill(tmp_path, pattern="*/*.txt")
    fill(tmp_path, pattern="*/visible.txt")
    fill(tmp_path, pattern="*/time.txt")  # no boxes
    with pytest.warns(UserWarning, match=r"4 other text files passed over \(visible\.txt"):
        assert result_files(tmp_path, NAMES)["dog"] == tmp_path / "dog" / "dog.txt"


def test_a_folder_for_each_benchmark(tmp_path, no_warning):
    names = {b: ground_truth(b).sequences for b in ("gtot", "rgbt210", "rgbt234")}
    for benchmark, sequences in names.items():
        fill(tmp_path / benchmark, sequences)
    for benchmark, sequences in names.items():
        found = result_files(tmp_path, sequences)
        assert {path.parent for path in found.values()} == {tmp_path / benchmark}


def test_several_files_for_each_sequence_are_listed(tmp_path):
    for tracker in ("A", "B"):
        fill(tmp_path, pattern=f"{tracker}_*.txt")
    with pytest.raises(ResultFileError, match=r"2 files for each sequence: .*A_\*.txt.*--prefix"):
        result_files(tmp_path, NAMES)
    with pytest.warns(UserWarning, match="4 other text files"):
        assert result_files(tmp_path, NAMES, "B_")["dog"].name == "B_dog.txt"
    assert result_files(tmp_path, NAMES, "B")["dog"].name == "B_dog.txt"
    for tracker in ("A", "deeper/B"):
        fill(tmp_path / "two" / tracker)
    (tmp_path / "two" / "A" / "readme.txt").write_text("hello")
    with pytest.raises(ResultFileError, match=r"2 files for each sequence: .*Give the folder of"):
        result_files(tmp_path / "two", NAMES)
    fill(tmp_path / "three", pattern="*/visible.txt")
    fill(tmp_path / "three", pattern="*/infrared.txt")
    with pytest.raises(ResultFileError, match=r"infrared.*visible.* Move the others away$"):
        result_files(tmp_path / "three", NAMES)


def test_a_larger_benchmarks_folder_is_told(tmp_path):
    fill(tmp_path, ground_truth("rgbt234").sequences)
    with pytest.warns(UserWarning, match="24 other .*these are results on rgbt234, whose ground"):
        result_files(tmp_path, ground_truth("rgbt210").sequences)


def test_a_missing_sequence_is_named_with_a_file_that_may_be_it(tmp_path):
    fill(tmp_path, [*NAMES[:2], "man_walkin"], "T_*.txt")
    message = (
        r"T_man_walking\.txt: missing, and 1 more \(Wo\.man\); .*There is T_man_walkin\.txt: rename"
    )
    with pytest.raises(FileNotFoundError, match=message):
        result_files(tmp_path, NAMES)


@pytest.mark.parametrize("other", ["gtot", "rgbt234", "lasher"])
def test_another_benchmarks_results_are_recognised(tmp_path, other):
    asked = "gtot" if other != "gtot" else "lasher"
    fill(tmp_path, ground_truth(other).sequences, "T_*.txt")
    with pytest.raises(ResultFileError, match=f"sequences of {other}.*--benchmark {other}"):
        result_files(tmp_path, ground_truth(asked).sequences)


def test_a_folder_without_results_is_told_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder; expected a text file"):
        result_files(tmp_path / "none", NAMES)
    (tmp_path / "results.zip").write_bytes(b"PK")
    with pytest.raises(ResultFileError, match=r"a file; expected .*in a folder\. Unpack it"):
        result_files(tmp_path / "results.zip", NAMES)
    (tmp_path / "dog.mat").write_bytes(b"MATLAB")
    with pytest.raises(FileNotFoundError, match=r"such as dog\.txt.* 1 of \.mat, 1 of \.zip"):
        result_files(tmp_path, NAMES)
    fill(tmp_path, ["alpha", "beta"])
    with pytest.raises(FileNotFoundError, match=r"2 of \.txt.*such as alpha.txt, beta.txt"):
        result_files(tmp_path, NAMES)
