"""The benchmarks start; what they measure is printed by themselves, never asserted in a test."""

import subprocess
import sys

from gmmt import files


def run(*names):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *names],
        cwd=files.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_unknown_benchmark_is_refused():
    done = run("scores")
    assert done.returncode == 2
    assert "no benchmark 'scores'; choose from score" in done.stderr


def test_results_are_made_up_only_where_the_raw_ones_cannot_be_had(tmp_path, no_downloads):
    from benchmarks.score import results_folder
    from gmmt.data.benchmarks import ground_truth
    from gmmt.data.result_folders import result_files

    folder, what = results_folder(tmp_path)
    assert "shaken" in what
    assert len(result_files(folder, ground_truth("rgbt234").sequences)) == 234
