"""The study from a profile to a built book: `make book`, or by hand

    snakemake --cores all --rerun-triggers mtime params input --config profile=quick -- book

Everything is written under the working directory: work/kept/ (what is trained and measured, for all
profiles), work/<profile>/ and results/<profile>/local/.
A run is repeated when its key changes (see smf_lib/study/keys.py), and then trains and measures only
what is not kept under its key; `python -m smf_lib.study keys --profile quick` says what that will be.
Targets: `book`; `study` (all records, no pages); or any file that a rule makes.
"""

import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from smf_lib.report.book.plan import (
    check_pages,
    check_records,
    describe_plan,
    other_builds,
)
from smf_lib.report.book.sums import find_damaged, remove_damaged
from smf_lib.study.code import code_digest, notebook_digest
from smf_lib.study.keys import memory_key, parent_of, run_keys
from smf_lib.study.many import ALLOCATION, check_limits
from smf_lib.study.materials import Materials
from smf_lib.study.notebooks import end_with_parent
from smf_lib.study.profiles import load_profile
from smf_lib.study.room import NoRoomError, check_room
from smf_lib.study.stoppable import STOPPABLE

# Every choice of the scheduler is told in a line; the notebooks' own lines say more.
logger.addFilter(lambda r: not r.getMessage().startswith(("Select jobs", "Execute ")))

if os.environ.pop(STOPPABLE, None):
    end_with_parent()

SOURCE = Path(os.path.relpath(workflow.basedir))
VIEWS = ["00_frontier", "03_results", "04_selection", "05_cost", "06_paper", "06_paper_tables",
         "07_one_after_another"]
CURVES = ["frontier", "ablations"]  # profiles whose whole curves are shown, whatever is built
SEQUENCE = "sequence"  # the profile whose sequences are shown, unless the one that is built has some
PAPER_STUDIES = ["medmcqa-qwen-coder", "medmcqa-smollm2", "paper"]

os.environ["SMF_ROOT"] = os.getcwd()
for name, value in ALLOCATION.items():
    os.environ.setdefault(name, value)
# Runs side by side share the cores. On a cluster there is no number of them to share, and a job has
# as many as `--set-threads` gives it.
CORES = workflow.resource_settings.cores or 1
PROFILE_NAME = str(config.get("profile", "quick"))
try:
    if not isinstance(config.get("jobs", 1), int):
        raise ValueError(f"JOBS={config['jobs']!r} must be a whole number of at least 1")
    JOBS = config.get("jobs", 1)
    check_limits(JOBS)
    PROFILE = load_profile(PROFILE_NAME)
    RUNS = {run.run_id: run for run in PROFILE.runs()}
    MATERIALS = Materials(PROFILE, Path.cwd())
    KEYS = {run_id: run_keys(MATERIALS, run).digest for run_id, run in RUNS.items()}
    MEMORY_KEY = memory_key(MATERIALS).digest
except ValueError as error:
    raise WorkflowError(str(error))

WORK = f"work/{PROFILE.name}"
RESULTS = f"results/{PROFILE.name}"
PAGES = f"{WORK}/site/_build/html"
RECORDS = [f"{RESULTS}/local/{run_id}.json" for run_id in RUNS]
EXECUTED = [
    f"{WORK}/notebooks/{name}.ipynb"
    for name in ["01_build_memory", *(f"02_finetune_{run_id}" for run_id in RUNS), *VIEWS]
]
# What the notebooks that show records are made with: the report without `report/book`.
SHOWING = ["report/*.py", "report/[!b]*/*.py", "study/records/*.py"]


def source(*parts):
    """A file of the repository, as a path from the working directory."""
    return str(SOURCE.joinpath(*parts))


def shown_records(wildcards):
    """The records that a view reads (of this study, others, benchmarks), and other files it reads."""
    found = list(Path("results").glob("*/*/*.json"))
    if wildcards.view == "04_selection":
        return sorted(str(p) for p in found if p.parts[1] == CURVES[0])
    further = [p for p in found if p.parent.name != "local" or p.parts[1] == PROFILE.name]
    if wildcards.view == "00_frontier":
        further += [p for p in found if p.parts[1] in CURVES]
    if wildcards.view.startswith("06_paper"):
        names = [*PAPER_STUDIES, "medmcqa"]
        further += [p for p in found if p.parts[1] in names]
        further += [source("profiles", f"{name}.yaml") for name in names]
        further += [source("smf_lib", "report", "paper", "published.yaml")]
    if wildcards.view == "07_one_after_another":
        further += [p for p in found if p.parts[1] == SEQUENCE]
    if wildcards.view == "05_cost":
        further += Path("results", "benchmarks").glob("*.json")
    return sorted({*RECORDS, *map(str, further)})


def notebook_key(name):
    """What an executed notebook depends on besides its parameters, the records it reads and keys."""
    code = [] if name.startswith(("01", "02")) else [code_digest(*SHOWING)]
    memory = [MEMORY_KEY] if name.startswith(("01", "04")) else []
    return [notebook_digest(source("notebooks", f"{name}.ipynb")), *code, *memory]


def again(made):
    """What a dry run, which removes nothing, adds to the key of what is damaged."""
    return ["damaged"] if Path(made) in DAMAGED else []


def notebook_parameters(**more):
    return json.dumps({"profile": PROFILE_NAME, **more})


def run_parameters(wildcards):
    run = RUNS[wildcards.run_id]
    more = {"method": run.method, "seed": run.seed}
    if isinstance(PROFILE.methods[run.method].learning_rate, list):
        more["learning_rate"] = run.learning_rate
    return notebook_parameters(**more)


def start_of(wildcards):
    """The record of the run that this one goes on from, so that the two come in order."""
    parent = parent_of(PROFILE, RUNS[wildcards.run_id])
    return [] if parent is None else f"{RESULTS}/local/{parent.run_id}.json"


def view_parameters(wildcards):
    if wildcards.view.startswith("06_paper"):
        own = PROFILE.is_like_the_paper and PROFILE.name not in PAPER_STUDIES
        return json.dumps({"studies": [*([PROFILE_NAME] if own else []), *PAPER_STUDIES]})
    if wildcards.view == "00_frontier":
        return json.dumps({} if PROFILE.name in CURVES else {"own": PROFILE_NAME})
    if wildcards.view == "07_one_after_another":
        return json.dumps({"profile": PROFILE_NAME} if PROFILE.sequences else {})
    if wildcards.view != "04_selection":
        return notebook_parameters()
    there_are = len(MATERIALS.exam.train)
    return notebook_parameters(batches=min(40, there_are // PROFILE.training.batch_size))


def pages():
    """Files of the repository that only the pages are made of."""
    prose = [p for p in SOURCE.joinpath("book").rglob("*") if p.is_file()]
    prose = [str(p) for p in prose if p.suffix in (".md", ".bib", ".css", ".js", ".svg", ".png")]
    notebooks = [str(p) for p in SOURCE.joinpath("notebooks").glob("*.ipynb")]
    return sorted([*prose, *notebooks, source("_config.yml"), source("_toc.yml")])


onstart:
    todo = list(workflow.dag.needrun_jobs())
    try:
        if any(job.rule.name == "pages" for job in todo):
            check_pages(PROFILE, len(MATERIALS.exam.train))
        made = {path for job in todo for path in job.output}
        shown = {path for job in todo if job.rule.name == "view" for path in job.input}
        check_records(shown - made)
        check_room(
            MATERIALS, [RUNS[job.wildcards.run_id] for job in todo if job.rule.name == "finetune"]
        )
    except (ValueError, NoRoomError) as error:
        raise WorkflowError(str(error))
    for line in describe_plan(MATERIALS, workflow.dag.needrun_jobs()):
        print(line, flush=True)


wildcard_constraints:
    run_id="|".join(map(re.escape, RUNS)),
    view="|".join(VIEWS),


# On a cluster every job is a Snakemake of its own in this folder; only the one that is started by hand
# must be alone.
busy = other_builds(os.getcwd()) if workflow.is_main_process else []
if busy:
    raise WorkflowError(
        f"process {busy[0]} is building in this folder; wait until it is done, or end it, and "
        "start again"
    )
DAMAGED = find_damaged(map(Path, EXECUTED), Path(PAGES)) if workflow.is_main_process else []
if not workflow.output_settings.dryrun:
    try:
        remove_damaged(DAMAGED, Path(PAGES))
        DAMAGED = []
    except OSError as error:
        raise WorkflowError(str(error))

# A file and not a module is run here, so that the package is imported by the kernel alone. `exec`
# makes it a child of Snakemake, with which it ends, however that ends.
SCRIPT = source("smf_lib", "study", "notebooks.py")
RUN_NOTEBOOK = (
    "exec {sys.executable:q} -P {SCRIPT:q} {input.notebook:q} {output.notebook:q} "
    "--log {params.log:q} --parameters {params.parameters:q}"
)


# The records are asked for by name: a lost one is computed again though the pages are there.
rule book:
    input:
        RECORDS,
        f"{PAGES}/index.html",


rule study:
    input:
        RECORDS,


rule build_memory:
    input:
        notebook=ancient(source("notebooks", "01_build_memory.ipynb")),
    output:
        notebook=f"{WORK}/notebooks/01_build_memory.ipynb",
    params:
        key=[*notebook_key("01_build_memory"), *again(f"{WORK}/notebooks/01_build_memory.ipynb")],
        parameters=lambda w: notebook_parameters(),
        log=f"{WORK}/logs/01_build_memory.log",
    priority: 2
    threads: CORES
    shell:
        RUN_NOTEBOOK


# A run makes what it shares with others (the background text) where it is missing, so it does not
# depend on the first notebook; `priority` only sees to it that the two come in reading order.
rule finetune:
    input:
        start_of,
        notebook=ancient(source("notebooks", "02_finetune.ipynb")),
    output:
        record=RESULTS + "/local/{run_id}.json",
        notebook=WORK + "/notebooks/02_finetune_{run_id}.ipynb",
    params:
        key=lambda w: [
            KEYS[w.run_id],
            *notebook_key("02_finetune"),
            *again(f"{WORK}/notebooks/02_finetune_{w.run_id}.ipynb"),
        ],
        label=lambda w: RUNS[w.run_id].settings.label,
        parameters=run_parameters,
        log=WORK + "/logs/{run_id}.log",
    priority: 1
    threads: max(1, CORES // JOBS)
    shell:
        RUN_NOTEBOOK


rule view:
    input:
        shown_records,
        notebook=lambda w: ancient(source("notebooks", f"{w.view}.ipynb")),
    output:
        notebook=WORK + "/notebooks/{view}.ipynb",
    params:
        key=lambda w: [*notebook_key(w.view), *again(f"{WORK}/notebooks/{w.view}.ipynb")],
        parameters=view_parameters,
        log=WORK + "/logs/{view}.log",
    threads: CORES
    shell:
        RUN_NOTEBOOK


rule pages:
    input:
        RECORDS,
        EXECUTED,
        pages(),
    output:
        f"{PAGES}/index.html",
    params:
        code=" ".join([code_digest("report/book/*.py"), *again(PAGES)]),
        profile=PROFILE.model_dump_json(),
        # a function, since a path may hold braces
        arguments=lambda w: ["--profile", PROFILE_NAME, "--source", str(SOURCE)],
        log=f"{WORK}/logs/book.log",
    shell:
        "{sys.executable:q} -m smf_lib.report.book build {params.arguments:q} --log {params.log:q}"
