"""Mutants: small faults put into the code on purpose, each of which some test must notice.

    python tests/mutants.py                 all of them (half an hour)
    python tests/mutants.py clipping lam    those whose names begin so

A mutant is a file, a text in it that is replaced, and the tests that must then fail. All runs
in a copy of the checkout. tests/test_mutants.py makes sure that every text is still there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """A fault."""

    name: str
    file: str  # in gmmt/
    old: str
    new: str
    tests: str  # what pytest is given


TRAINING = "tests/test_training.py"
MUTANTS = (
    # --- those that survived a review
    Mutant(
        "clipping removed",
        "training.py",
        "            nn.utils.clip_grad_norm_(stage.parameters_of(turn), plan.clip)\n",
        "",
        f"{TRAINING} -k formula",
    ),
    Mutant(
        "weight decay 0",
        "training.py",
        "AdamW(parameters, plan.rate, weight_decay=plan.weight_decay)",
        "AdamW(parameters, plan.rate, weight_decay=0.0)",
        f"{TRAINING} -k formula",
    ),
    Mutant(
        "features not standardised",
        "experiment.py",
        "                standardise(stage.tracker, pairs, config, seed)\n",
        "                pass\n",
        f"{TRAINING} -k standardised",
    ),
    Mutant(
        "first weights of U by chance",
        "experiment.py",
        "                torch.manual_seed(seed + 1)  # every row: the same first weights of U\n",
        "",
        f"{TRAINING} -k same_weights_of_u",
    ),
    Mutant(
        "lam ignored",
        "training.py",
        "total + self.plan.lam * sum(generative.values())",
        "total + sum(generative.values())",
        f"{TRAINING} -k lambda_lives",
    ),
    Mutant(
        "ViTs with SiamBAN's crops",
        "trackers/vit.py",
        "CropRule(template, search, area_side,",
        "CropRule(template, search, context_side,",
        "tests/test_vit.py",
    ),
    Mutant(
        "another mean of images",
        "trackers/vit.py",
        "IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406),",
        "IMAGENET_MEAN, IMAGENET_STD = (0.5, 0.5, 0.5),",
        "tests/test_vit.py",
    ),
    Mutant(
        "D moves in G's turn",
        "fusion.py",
        "answer = held_fixed(self.discriminator)(x, *conditions).float()",
        "answer = self.discriminator(x, *conditions).float()",
        "tests/test_fusion_cgan.py",
    ),
    # --- fusion
    Mutant(
        "G's running statistics move in D's turn",
        "fusion.py",
        "x = self.generate(conditions, generator, held_fixed(self.network))",
        "x = self.generate(conditions, generator)",
        "tests/test_fusion_cgan.py",
    ),
    Mutant(
        "units of fused* lost",
        "fusion.py",
        "return x * self.std[0, :, None, None] + self.mean[0, :, None, None]",
        "return x",
        "tests/test_fusion.py",
    ),
    Mutant(
        "D taught the wrong way round",
        "fusion.py",
        "return fake.square().mean() + (1 - real).square().mean()",
        "return real.square().mean() + (1 - fake).square().mean()",
        "tests/test_fusion_cgan.py",
    ),
    # --- schedule and noise
    Mutant(
        "the sampler starts one step too late",
        "schedule.py",
        "i * self.T // steps - 1",
        "max(0, i * self.T // steps - 2)",
        "tests/test_schedule.py",
    ),
    # --- training
    Mutant(
        "a frozen batch norm learns",
        "training.py",
        "        super().train(False)\n",
        "        super().train(mode)\n",
        f"{TRAINING} -k each_stage_moves",
    ),
    Mutant(
        "every process draws for itself",
        "training.py",
        "hash_of([seed, stage.name, k, turn]), rank * parts + i, world * parts",
        "hash_of([seed, stage.name, k, turn, rank]), i, parts",
        f"{TRAINING} -k meet_the_losses",
    ),
    Mutant(
        "the layout depends on the cache",
        "compute.py",
        "    module.to(place, memory_format=kind)\n",
        "    module.to(place, memory_format=kind if fast else torch.preserve_format)\n",
        f"{TRAINING} -k trained_here",
    ),
    Mutant(
        "the curve counts lines twice",
        "training.py",
        "        checkpoint.cut_curve(path, done)\n",
        "        pass\n",
        f"{TRAINING} -k stopped",
    ),
    Mutant(
        "the optimiser forgets",
        "training.py",
        '        optimizer.load_state_dict({"state": state, "param_groups": groups})\n',
        "        pass\n",
        f"{TRAINING} -k stopped",
    ),
    Mutant(
        "jitter of the search patch to one side",
        "data/pairs.py",
        "moved, scaled = rng.uniform(-1, 1, (2, n, 2))",
        "moved, scaled = rng.uniform(0, 1, (2, n, 2))",
        f"{TRAINING} -k to_both_sides",
    ),
    # --- tracking
    Mutant(
        "no window",
        "tracking.py",
        "total = penalty * score * (1 - reading.window) + window * reading.window",
        "total = penalty * score",
        "tests/test_tracking.py tests/test_siamese.py",
    ),
    Mutant(
        "the size follows at once",
        "tracking.py",
        'if reading.resize == "by score":',
        "if False:",
        "tests/test_tracking.py tests/test_siamese.py",
    ),
    Mutant(
        "corners are not clipped",
        "tracking.py",
        "    high = high.clamp(min=margin).minimum(limit)\n",
        "    high = high.clamp(min=margin)\n",
        "tests/test_tracking.py tests/test_tracking_ops.py",
    ),
    # --- metrics
    Mutant(
        "a centre on the threshold is a miss",
        "metrics.py",
        "frames.error <= protocol.precision_threshold",
        "frames.error < protocol.precision_threshold",
        "tests/test_metrics.py",
    ),
    Mutant(
        "an overlap on the threshold is a hit",
        "metrics.py",
        'side = "left" if protocol.success_strict else "right"',
        'side = "right"',
        "tests/test_metrics.py",
    ),
    # --- study
    Mutant(
        "intervals over videos alone",
        "study/seeds.py",
        "v = max(v_s + v_q - v_e, v_s, v_q)",
        "v = v_q",
        "tests/test_seeds.py -k interval",
    ),
    Mutant(
        "the worst plan is kept",
        "study/grid.py",
        "return plans[means.index(max(means))]",
        "return plans[means.index(min(means))]",
        "tests/test_seeds.py -k best",
    ),
    Mutant(
        "codes are not compared",
        "study/stored.py",
        'if not same_weights(records[-1]["code"], records[0]["code"]):',
        "if False:",
        "tests/test_seeds.py -k other_code",
    ),
    Mutant(
        "a claim holds though its interval holds 0",
        "study/claims.py",
        "    if low > 0:\n",
        "    if low + high > 0:\n",
        "tests/test_results.py",
    ),
    Mutant(
        "tables are paired by place",
        "study/seeds.py",
        'return part.pivot(index="seed", columns="sequence", values=metric)',
        'return part.pivot(index="seed", columns="sequence", values=metric).reset_index(drop=True)',
        "tests/test_seeds.py -k joined",
    ),
    # --- what is read and kept
    Mutant(
        "all scenes are kept",
        "data/loader.py",
        'enumerate(synthetic.scenes("train", data.train, data.length, data.source))',
        'enumerate(list(synthetic.scenes("train", data.train, data.length, data.source)))',
        "tests/test_miniature.py -k let_go",
    ),
    Mutant(
        "left-overs stay",
        "checkpoint.py",
        "        left_over.unlink(missing_ok=True)\n",
        "        pass\n",
        f"{TRAINING} -k swept",
    ),
    Mutant(
        "every process tracks and prints",
        "cli.py",
        "if not PartialState().is_main_process:",
        "if False:",
        f"{TRAINING} -k from_the_command_line",
    ),
    # --- the device
    Mutant(
        "noise is drawn on the CPU",
        "draws.py",
        "return torch.randn(self.world * n, *item, **where)[self._share(n)]",
        "return torch.randn(self.world * n, *item)[self._share(n)]",
        "tests/test_device.py -k each_generator",
    ),
    Mutant(
        "the statistics of images are sent over in each frame",
        "trackers/vit.py",
        "@lru_cache\ndef grey_levels(",
        "def grey_levels(",
        "tests/test_device.py -k goes_over_once",
    ),
    Mutant(
        "a crop waits for its box",
        "data/crops.py",
        "if on_cpu and not bool(",
        "if not bool(",
        "tests/test_device.py -k goes_over_once",
    ),
    Mutant(
        "steps are looked up one too early",
        "schedule.py",
        "index_select(0, t.to(device) + 1)",
        "index_select(0, t.to(device))",
        "tests/test_schedule.py",
    ),
    Mutant(
        "a wide search patch is cut as any other",
        "data/crops.py",
        "            side = side * self.wider\n",
        "            pass\n",
        "tests/test_official.py -k five_times",
    ),
    # --- data sets
    Mutant(
        "all items are one",
        "data/samples.py",
        "rng = np.random.default_rng((*key, k))",
        "rng = np.random.default_rng(key)",
        "tests/test_samples.py",
    ),
    Mutant(
        "the interval's end counts",
        "data/sampling.py",
        "(frames < template + interval)",
        "(frames <= template + interval)",
        "tests/test_sampling.py",
    ),
    Mutant(
        "OSTrack's half pixel",
        "data/augment.py",
        "moved * scale - 0.5",
        "moved * scale",
        "tests/test_augment.py",
    ),
    Mutant(
        "SiamBAN's overlap without its pixel",
        "trackers/heads.py",
        "together, more = (0, 1, 2), 1.0",
        "together, more = (0, 1, 2), 0.0",
        "tests/test_released_training.py",
    ),
    Mutant(
        "the box of the true cell, as released or not",
        "trackers/heads.py",
        "(p if best else heat)",
        "(heat)",
        "tests/test_released_training.py",
    ),
    Mutant(
        "a surplus row is taken from the end",
        "data/layouts.py",
        "rows = rows[len(rows) - n :]",
        "rows = rows[:n]",
        "tests/test_datasets.py",
    ),
    Mutant(
        "a JPEG without its end is an image",
        "data/decode.py",
        'raise ValueError("its end is missing")',
        "pass",
        "tests/test_decode.py",
    ),
    Mutant(
        "who was stopped leaves a gap",
        "on_benchmark.py",
        "for patience in (0, -1):",
        "for patience in (0,):",
        "tests/test_on_benchmark.py -k until_it_is_gone",
    ),
    Mutant(
        "results of two trackers in one folder",
        "on_benchmark.py",
        "elif there != dict(made_by):",
        "elif False:",
        "tests/test_on_benchmark.py -k not_mixed_in",
    ),
    Mutant(
        "an epoch is a step",
        "config.py",
        "steps=plan.epochs * (samples // plan.batch)",
        "steps=plan.epochs",
        "tests/test_paper_configs.py -k plans",
    ),
    Mutant(
        "parts of a batch have one noise",
        "training.py",
        "rank * parts + i, world * parts",
        "rank, world",
        "tests/test_samples_training.py -k parts",
    ),
    Mutant(
        "all learn from the start",
        "training.py",
        "if epoch < _of(self.plan.frozen_until, name, 0):",
        "if False:",
        "tests/test_samples_training.py -k later",
    ),
    Mutant(
        "all learn alike",
        "training.py",
        'plan.rate_at(k) * group["share"]',
        "plan.rate_at(k)",
        "tests/test_samples_training.py -k later",
    ),
    # --- keys
    Mutant(
        "tracking is not in the key of boxes",
        "predictions.py",
        'code_hash("gmmt.predictions", module_of(config.tracker))',
        "code_hash(module_of(config.tracker))",
        "tests/test_config.py -k tracking",
    ),
    Mutant(
        "arguments are not in the key",
        "experiment.py",
        '        "tracker": plain(config.tracker),\n',
        '        "tracker": config.tracker.kind,\n',
        "tests/test_config.py -k every_value",
    ),
    Mutant(
        "an image's bytes are not in the key",
        "data/loader.py",
        "            digest.update(hashlib.sha256(path.read_bytes()).digest())\n",
        "",
        "tests/test_config.py -k roadscene",
    ),
    Mutant(
        "choices are every profile's",
        "config_file.py",
        'folder / f"{profile}-choices.csv"',
        'folder / "cpu-choices.csv"',
        "tests/test_config.py -k choices_belong",
    ),
    # --- what people bring
    Mutant(
        "numpy's thresholds",
        "protocol.py",
        "np.where(np.arange(n + 1) <= n // 2, up, down)",
        "up",
        "tests/test_protocol.py",
    ),
    Mutant(
        "padded rows repeat",
        "metrics.py",
        "        valid |= padded  # no row of the file: stays a miss\n",
        "",
        "tests/test_protocol.py",
    ),
    Mutant(
        "NaN rows stay on LasHeR",
        "metrics.py",
        "(boxes[:, 3] > 0) & ~np.isnan(boxes).any(1)",
        "(boxes[:, 3] > 0) | np.isnan(boxes).any(1)",
        "tests/test_protocol.py",
    ),
    Mutant(
        "any eight numbers are corners",
        "data/boxes.py",
        "return around | in_rows | in_columns",
        "return np.ones(len(points), bool)",
        "tests/test_boxes.py",
    ),
    Mutant(
        "one number more is dropped without a look",
        "data/boxes.py",
        "len(first) >= enough and (np.diff(first) == 1).all()",
        "len(first) >= enough and False",
        "tests/test_boxes.py",
    ),
    Mutant(
        "hidden files are results",
        "data/result_folders.py",
        'ending in ENDINGS and not name.startswith(".") and not side',
        "ending in ENDINGS and not side",
        "tests/test_result_folders.py",
    ),
    Mutant(
        "the first of several trackers is taken",
        "data/result_folders.py",
        "    if len(candidates) > 1:\n",
        "    if False:\n",
        "tests/test_result_folders.py",
    ),
    Mutant(
        "only first boxes are compared",
        "sanity.py",
        "        what = _other_reading(rows, truths[name])\n",
        '        what = ""\n',
        "tests/test_sanity.py",
    ),
    Mutant(
        "first boxes are not compared",
        "sanity.py",
        "        what = _first_looks_like(name, boxes[name][0], given)\n",
        "        what = None\n",
        "tests/test_sanity.py",
    ),
    Mutant(
        "blank lines are nothing",
        "sanity.py",
        "        if rows < n and (rows + file.blank == n or rows + blank == n):\n",
        "        if False:\n",
        "tests/test_sanity.py",
    ),
    Mutant(
        "a range for each image",
        "data/images.py",
        "            low, high = self.range\n",
        "            low, high = _deep_values(path).min(), _deep_values(path).max()\n",
        "tests/test_images.py",
    ),
    Mutant(
        "frames sorted as text",
        "data/image_folders.py",
        "order = sorted(range(len(files)), key=numbers.__getitem__)",
        "order = list(range(len(files)))",
        "tests/test_images.py",
    ),
    Mutant(
        "GTOT's corners are sizes",
        "data/truth.py",
        'CORNERS = ("groundtruth_v", "groundtruth_i")',
        "CORNERS = ()",
        "tests/test_video.py",
    ),
    Mutant(
        "a checkpoint is not compared with its hash",
        "checkpoint.py",
        'if run.pop("hash") != _content_hash(run, tensors):',
        'if run.pop("hash") is None:',
        f"{TRAINING} -k flipped",
    ),
    Mutant(
        "weights that are not finite load",
        "trackers/official.py",
        "    if not bool(value.isfinite().all()):\n",
        "    if False:\n",
        "tests/test_official.py -k finite",
    ),
    Mutant(
        "the batch trusts files by their names",
        "../workflow/jobs.py",
        "manifest.sha256(Path(job.folder, file)) == digest for",
        "Path(job.folder, file).is_file() for",
        "tests/test_batch.py -k by_hand",
    ),
)


def find(mutant: Mutant, root: Path = ROOT) -> Path:
    """Returns the file of a mutant, in which its text stands exactly once."""
    path = root / "gmmt" / mutant.file
    count = path.read_text(encoding="utf-8").count(mutant.old)
    assert count == 1, f"{mutant.name}: {mutant.old!r} stands {count} times in gmmt/{mutant.file}"
    return path


def kill(mutant: Mutant, copy: Path) -> bool:
    """Whether the mutant's tests fail in a copy of the checkout with it."""
    path = find(mutant, copy)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {mutant.tests}"
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, shell=True, cwd=copy, env=env, capture_output=True, text=True, check=False
    )
    path.write_text(text, encoding="utf-8")
    assert done.returncode in (0, 1), f"{mutant.name}: pytest did not run\n{done.stdout[-2000:]}"
    return done.returncode == 1


def main(starts: list[str]) -> int:
    """Returns the number of mutants that survive."""
    wanted = [m for m in MUTANTS if not starts or m.name.startswith(tuple(starts))]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "data")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if not (copy / "gmmt" / "data").is_dir():
            shutil.copytree(ROOT / "gmmt" / "data", copy / "gmmt" / "data")
        for mutant in wanted:
            began = time.monotonic()
            killed = kill(mutant, copy)
            survivors += not killed
            word = "killed" if killed else "SURVIVED"
            print(f"{word:8s} {time.monotonic() - began:5.0f} s  {mutant.name}", flush=True)
    print(f"{len(wanted) - survivors} of {len(wanted)} killed")
    return survivors


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
