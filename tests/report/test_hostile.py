"""Texts of records and profiles that are markup, script, TeX or terminal codes stay texts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from bs4 import BeautifulSoup
from helpers_book import executed, html_output, notebook, write
from helpers_records import (
    PROVENANCE,
    ablation_records,
    frontier_records,
    make_record,
    paper_records,
    study_records,
    sweep_records,
)
from helpers_sequences import LORA, SMF, way
from helpers_sequences import record as sequence_record
from nbformat import v4

from smf_lib.report import figures
from smf_lib.report.analysis import tables
from smf_lib.report.book import build
from smf_lib.report.figures.axes import log_scale
from smf_lib.report.figures.style import STYLE, new_figure
from smf_lib.report.text import as_code, as_html, as_markdown, sentences
from smf_lib.study.notebooks import run_notebook
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import ResultsError, read_record, write_record

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "document.documentElement.dataset.ran=1"
HOSTILE = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f'"><svg onload="{RUN}">',
    f"[x](javascript:{RUN})",
    f"![x](x'onerror={RUN})",
    f"$$\\href{{javascript:{RUN}}}{{x}}$$",
    f"\\(\\href{{javascript:{RUN}}}{{x}}\\)",
    f"\\begin{{align}}\\class{{x}}{{\\href{{javascript:{RUN}}}{{x}}}}\\end{{align}}",
    "`a` | **b** | $x_$ {doc}`intro` {download}`x <../conf.py>`",
    f"</script><script>{RUN}</script>",
    "&lt;script&gt; # *x* ~~y~~ --> ]]> {{ x }} {% x %}",
]
CONTROL = ["\x1b[2J", "\x07", "a\nb", "\u202etxt", "a\u2028b", "\x00"]


def hostile_records(text, made=None):
    """Records, by default those of a study, with the text in every field that is one."""
    machine = {
        "versions": {**PROVENANCE["versions"], text[:60]: text},
        "hardware": {**PROVENANCE["hardware"], "cpu": text, "gpu": text, "platform": text},
        "commit": text,
    }
    records = []
    for record in study_records() if made is None else made:
        content = json.loads(record.model_dump_json())
        content |= machine
        content["label"] = f"{text[:80]} {record.method}"
        content["model"] |= {"name": text, "source": text, "sha256": text}
        content["data"]["exam"] |= {"name": text, "notes": text}
        content["data"]["prose"]["source"] = content["data"]["knowledge"]["source"] = text
        content["baselines"] |= {"rules": {text: 0.3}, "bags": {text: 0.3}}
        content["created"] = text
        records.append(type(record).model_validate(content))
    return records


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_and_sentences_show_it_as_it_is(text):
    records = hostile_records(text)
    for made in (tables.learned_table(records), tables.provenance_table(records)):
        page = BeautifulSoup(tables.show(made, caption=text)._repr_html_(), "html.parser")
        page.find("span", class_="caption-words").unwrap()  # our own
        assert {tag.name for tag in page.find_all(True)} <= {
            "style", "table", "caption", "thead", "tbody", "tr", "th", "td",
        }  # fmt: skip
        assert text.split()[0] in page.text.replace("\u2060", "")
    shown = tables.said(f"- **{text}** is first.").data
    html = BeautifulSoup(_rendered(shown), "html.parser")
    assert {tag.name for tag in html.find_all(True)} <= {"ul", "li", "strong", "p", "em"}


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_html_and_code_read_as_the_text(text):
    for made in (as_markdown(text), as_code(text)):
        html = BeautifulSoup(_rendered(f"x {made} y"), "html.parser")
        assert html.text.replace("\u2060", "").strip() == f"x {' '.join(text.split())} y"
        assert {tag.name for tag in html.find_all(True)} <= {"p", "code"}
    assert BeautifulSoup(as_html(text), "html.parser").text.replace("\u2060", "") == text
    for tex in ("$$", "\\(", "\\[", "\\begin", "\\href"):
        assert tex not in as_html(text) and tex not in _rendered(sentences(text))


def _rendered(markdown):
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").render(markdown)


def test_figures_draw_dollars_as_dollars():
    records = hostile_records("$\\frac{$ and $x_$")
    html = figures.cost(records)._repr_html_()
    tags = {tag.name for tag in BeautifulSoup(html, "html.parser").find_all(True)}
    assert tags == {"figure", "img", "figcaption"}


@pytest.mark.parametrize("limits", [(1e-5, 1e-2), (2e-4, 7e-4)])
def test_logarithmic_axes_have_powers_as_labels(limits):
    figure = new_figure(3)
    with matplotlib.rc_context(STYLE):
        ax = figure.subplots()
        log_scale(ax, "x")
        ax.set_xlim(*limits)
        figure.draw_without_rendering()
        labels = [t.get_text() for t in (*ax.get_xticklabels(), *ax.get_xticklabels(minor=True))]
    assert any("10⁻⁴" in label for label in labels)
    assert not any(sign in label for label in labels for sign in "$\\{^")


@pytest.mark.parametrize("text", CONTROL)
def test_what_is_no_text_is_refused_where_it_is_read(text, tmp_path):
    record = make_record("base", run_id="base")
    path = write_record(tmp_path / "base.json", record)
    content = json.loads(path.read_text())
    content["hardware"]["cpu"] = text
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"base\.json: .*hardware\.cpu: .* holds U\+"):
        read_record(path)
    profile = tmp_path / "mine.yaml"
    profile.write_text(json.dumps({"extends": "smoke", "name": "mine", "title": f"a{text}b"}))
    if text == "a\nb":
        assert load_profile(profile).title == "aa\nbb"
        return
    with pytest.raises(ValueError, match=r"title = .* holds U\+|is not YAML"):
        load_profile(profile)


@pytest.mark.parametrize(
    "name",
    ["../../../outside/x", "/abs/x", "x$(touch F)", "x;y", "a b", "a{IFS}b", "", "é", "x" * 200],
)
def test_names_stay_in_their_folders(name, tmp_path):
    method = {"label": "L", "kind": "full", "learning_rate": 1e-4}
    profile = tmp_path / "mine.yaml"
    profile.write_text(json.dumps({"extends": "smoke", "name": "mine", "methods": {name: method}}))
    with pytest.raises(ValueError, match="must be 1 to 100 of the characters"):
        load_profile(profile)
    content = json.loads(make_record("base", run_id="base").model_dump_json())
    for field in ("run_id", "profile", "method"):
        path = tmp_path / "base.json"
        path.write_text(json.dumps({**content, field: name}))
        with pytest.raises(ResultsError, match=f"{field}: .*must be 1 to 100 of the characters"):
            read_record(path)


# ---------------------------------------------------------------------- a page in a browser


ADDRESSES = ("href", "src", "srcset", "action", "formaction", "data", "xlink:href")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def write_toc(source, files):
    """The table of contents of a book with these chapters after its first page."""
    parts = [{"caption": "C", "chapters": [{"file": file} for file in files]}]
    toc = {"format": "jb-book", "root": "book/intro", "parts": parts}
    (source / "_toc.yml").write_text(json.dumps(toc))


def hostile_site(folder):
    """A small book whose profile and records are hostile wherever a text can be."""
    label = f"<script>{RUN}</script><img src=x onerror={RUN}>`$\\("
    text = " ".join(HOSTILE)
    base = load_profile("smoke")
    methods = {
        name: method.model_copy(update={"label": label if name == "lora" else method.label})
        for name, method in base.methods.items()
        if name in ("base", "lora")
    }
    profile = base.model_copy(update={"methods": methods, "title": text, "description": text})
    source, root = folder / "source", folder / "root"
    shutil.copytree(REPOSITORY / "book" / "_static", source / "book" / "_static")
    shutil.copyfile(REPOSITORY / "_config.yml", source / "_config.yml")
    (source / "book" / "references.bib").write_text("")
    (source / "book" / "intro.md").write_text("# Intro\n\nText.\n")
    (source / "book" / "rerun.md").write_text("# Rerun\n\nText.\n")
    write_toc(source, ["book/rerun", "notebooks/02_finetune", "notebooks/03_results"])
    plain = notebook("## Part", ("print(seed)",))
    records = hostile_records(text[:3000])
    shown = tables.show(tables.provenance_table(records), caption=text)
    outputs = [
        html_output(shown._repr_html_()),
        v4.new_output("display_data", {"text/markdown": tables.said(text).data}),
        html_output(figures.exam_accuracy(records)._repr_html_()),
        v4.new_output("stream", text=text),
    ]
    pages = {"03_results": {}} | {f"02_finetune_{r.run_id}": {} for r in profile.runs()}
    for name in ("02_finetune", "03_results"):
        write(plain, source / "notebooks" / f"{name}.ipynb")
    for page in pages:
        done = executed(plain, outputs if page != "02_finetune_base" else [], profile=text, seed=0)
        write(done, root / "work/smoke/notebooks" / f"{page}.ipynb")
    for run in profile.runs():
        found = next(r for r in records if r.method == run.method)
        changed = {"run_id": run.run_id, "profile": "smoke"}
        write_record(
            root / "results/smoke/local" / f"{run.run_id}.json", found.model_copy(update=changed)
        )
    return build.stage(profile, source, root, root / "site")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_runs_when_pages_are_opened(tmp_path):
    check_pages(hostile_site(tmp_path), ("02_finetune", "03_results"), tmp_path)


VIEWS = {  # notebooks that draw records alone, and whose
    "00_frontier": {"own": "smoke"},
    "03_results": {"profile": "smoke", "sweep": "sweep", "repeated": None},
    "05_cost": {"profile": "smoke"},
    "06_paper": {},
    "06_paper_tables": {},
    "07_one_after_another": {},
}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_runs_on_any_page_that_draws_hostile_records(tmp_path, monkeypatch):
    site = hostile_site(tmp_path)
    source, root = tmp_path / "source", tmp_path / "root"
    text = " ".join(HOSTILE)[:3000]
    runs = {run.method: run.run_id for run in load_profile("smoke").runs()}
    mine = [
        record.model_copy(update={"profile": "smoke", "run_id": runs[record.method]})
        for record in study_records()
    ]
    made = [*mine, *frontier_records(), *ablation_records(), sequence_record("base")]
    made += [*way("lora", LORA), *way("smf", SMF)]
    made += [r.model_copy(update={"profile": "sweep"}) for r in sweep_records()]
    made += [r for name in ("medmcqa-qwen-coder", "medmcqa-smollm2") for r in paper_records(name)]
    for record in hostile_records(text, made):
        if record.profile == "sequence":  # whose tasks are looked up by their names
            record.data.exam.name = "icd10"
        folder = root / "results" / record.profile / record.study
        write_record(folder / f"{record.run_id}.json", record)
    monkeypatch.setenv("SMF_ROOT", str(root))
    for name, parameters in VIEWS.items():
        notebook_file = f"notebooks/{name}.ipynb"
        shutil.copyfile(REPOSITORY / notebook_file, source / notebook_file)
        run_notebook(
            source / notebook_file, root / "work/smoke" / notebook_file, parameters,
            root / f"{name}.log",
        )  # fmt: skip
    files = ["book/rerun", *(f"notebooks/{name}" for name in ("02_finetune", *VIEWS))]
    write_toc(source, files)
    profile = load_profile("smoke")
    methods = {name: profile.methods[name] for name in ("base", "lora")}
    build.stage(profile.model_copy(update={"methods": methods}), source, root, site)
    check_pages(site, VIEWS, tmp_path)
    shown = (site / "_build/html/notebooks/06_paper.html").read_text("utf-8")
    assert "document.documentElement.dataset" in shown  # as a text


def check_pages(site, names, folder):
    """Build a book and open these pages: nothing has run, and no markup of a record's is there."""
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "-n", str(site)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    html = site / "_build" / "html"
    for name in names:
        page = html / "notebooks" / f"{name}.html"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
        opened = subprocess.run(
            [
                CHROMIUM,
                *options,
                f"--user-data-dir={folder}/browser",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        dom = BeautifulSoup(opened.stdout, "html.parser")
        assert not dom.html.has_attr("data-ran")
        handlers = [
            (name, value)
            for tag in dom.find_all(True)
            for name, value in tag.attrs.items()
            if name.startswith("on")
        ]
        assert set(handlers) <= {("onclick", "window.print()")}  # the theme's own button
        links = [
            (name, value)
            for tag in dom.find_all(True)
            for name, value in tag.attrs.items()
            if name in ADDRESSES and "javascript:" in value.lower()
        ]
        assert links == []
        article = dom.find("article") or dom.find("main")
        assert not [s for s in article.find_all("script") if RUN in s.text]
