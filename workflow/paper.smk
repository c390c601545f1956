# The paper's tables on the real benchmarks: data, stage 1, stage 2, track, score, a table.
#
#   snakemake --cores 8 --config goal=paper lasher=/data/LasHeR tbsi=/weights/TBSI.pth.tar \
#       rows=tbsi_gmmt_uvit benchmarks=lasher
#
# Keys of --config (or of a file: --configfile paths.yaml):
#   lasher, gtot, rgbt234      the data sets' folders (default: data/NAME)
#   tbsi, ostrack, resnet50    files of official weights (data_manifests/weights.json names them)
#   rows, benchmarks, seeds    which (default: the tables' rows, lasher,rgbt234,gtot, seed 0)
#   part=true                  takes the sequences that are there
#   profile                    paper, or smoke to see that all runs
#
# Every rule is a gmmt command that can be given by hand.

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parent))  # the checkout
from snakemake.exceptions import WorkflowError

from gmmt.errors import SettingError
from gmmt.study import full_run
from workflow import paper

try:
    PLAN = paper.plan(config)
except SettingError as error:
    raise WorkflowError(str(error))
GMMT = f"{shlex.quote(sys.executable)} -m gmmt.cli"
RUN = "{folder}/seed{seed}"
HERE = PLAN.folder
TARGETS = [f"{HERE}/paper.csv"]


wildcard_constraints:
    row=r"\w+",
    benchmark=r"[a-z0-9]+",
    seed=r"\d+",


rule verify_data:
    output:
        touch("{folder}/status/verify-{benchmark}"),
    params:
        options=lambda wildcards: PLAN.data_options(wildcards.benchmark),
    threads: 4
    shell:
        "{GMMT} verify {wildcards.benchmark} {params.options}"


rule train_row:
    # Stage 1 is a row of its own, which others find trained.
    input:
        lambda wildcards: f"{wildcards.folder}/status/verify-lasher",
        lambda wildcards: PLAN.trained_before(wildcards),
        lambda wildcards: PLAN.files_of(wildcards.row),
    output:
        touch(f"{RUN}/status/train-{{row}}"),
    params:
        options=lambda wildcards: PLAN.row_options(wildcards.row, wildcards.seed),
        weights=f"{RUN}/trackers",
    threads: 8
    resources:
        gpu=1,
        mem_mb=64000,
        runtime=lambda wildcards: PLAN.minutes(wildcards.row),
    shell:
        "{GMMT} train {params.options} --weights {params.weights:q}"


rule track_row:
    input:
        f"{RUN}/status/train-{{row}}",
        "{folder}/status/verify-{benchmark}",
    output:
        touch(f"{RUN}/status/track-{{row}}-{{benchmark}}"),
    params:
        options=lambda wildcards: PLAN.row_options(wildcards.row, wildcards.seed),
        data=lambda wildcards: PLAN.data_options(wildcards.benchmark),
        weights=f"{RUN}/trackers",
    threads: 4
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=600,
    shell:
        "{GMMT} track --benchmark {wildcards.benchmark} {params.data} {params.options} "
        "--weights {params.weights:q}"


rule score_row:
    input:
        f"{RUN}/status/track-{{row}}-{{benchmark}}",
    output:
        f"{RUN}/scores/{{row}}-{{benchmark}}.csv",
    params:
        results=f"{RUN}/results/{{benchmark}}/{{row}}",
        data=lambda wildcards: PLAN.data_options(wildcards.benchmark),
    shell:
        "{GMMT} score {params.results:q} --benchmark {wildcards.benchmark} {params.data} "
        "--tracker {wildcards.row} --out {output:q}"


rule paper_table:
    input:
        [
            f"{HERE}/seed{seed}/scores/{row}-{benchmark}.csv"
            for seed in PLAN.seeds
            for row in PLAN.rows
            for benchmark in PLAN.benchmarks
        ],
    output:
        f"{HERE}/paper.csv",
    run:
        full_run.write([Path(path) for path in input], Path(output[0]))
