"""What the book's prose promises: code that runs, whole references, pictures from scripts."""

import importlib.util
import re
import struct
from pathlib import Path

import nbformat
import pytest
import yaml

from smf_lib.method import rules
from smf_lib.study.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"


def blocks(page, language):
    text = (BOOK / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_assignments_rule_and_profile_load_as_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    (tmp_path / "mine.py").write_text(blocks("teaching.md", "python")[0])
    (tmp_path / "assignment.yaml").write_text(blocks("teaching.md", "yaml")[0])
    profile = load_profile(tmp_path / "assignment.yaml")
    assert set(profile.methods) == {"base", "smf-tfidf", "smf-mine"}
    trained = [run for run in profile.runs() if run.method != "base"]
    assert len(trained) == 18
    rates = {
        method: {run.learning_rate for run in trained if run.method == method}
        for method in ("smf-tfidf", "smf-mine")
    }
    assert len(rates["smf-mine"]) == 3 and rates["smf-mine"] == rates["smf-tfidf"]
    assert profile.methods["smf-mine"].settings["rule"] in rules.RULES


def test_the_profile_of_a_sequence_has_the_runs_that_it_says(tmp_path):
    (tmp_path / "codes-first.yaml").write_text(
        next(block for block in blocks("rerun.md", "yaml") if "codes-first" in block)
    )
    profile = load_profile(tmp_path / "codes-first.yaml")
    assert profile.stages_of("smf-grown") == ["smf-tfidf.icd10", "smf-grown.icd10-cities"]
    assert {run.method.partition(".")[0] for run in profile.runs()} == {
        "base", "smf-tfidf", "smf-grown", "lora", "lora-replay",
    }  # fmt: skip


def test_the_exercises_profile_loads_and_has_the_runs_that_it_says(tmp_path):
    (tmp_path / "rank4.yaml").write_text(
        next(block for block in blocks("rerun.md", "yaml") if "rank4" in block)
    )
    profile = load_profile(tmp_path / "rank4.yaml")
    runs = [run for run in profile.runs() if run.method != "base"]
    assert {run.method for run in runs} == {"lora"} and len(runs) == 6
    assert profile.methods["lora"].settings["r"] == 4
    assert profile.methods["lora"].settings["lora_alpha"] == 32
    assert sum(run.method == "base" for run in profile.runs()) == 1


def test_the_profiles_of_the_exercise_on_sequences_load_and_have_the_runs_that_it_says(tmp_path):
    cells = nbformat.read(ROOT / "notebooks" / "07_one_after_another.ipynb", 4).cells
    first, more = re.findall(r"^```yaml\n(.*?)^```$", cells[-1].source, re.MULTILINE | re.DOTALL)
    mine = yaml.safe_load(first)
    (tmp_path / "mine.yaml").write_text(first)
    runs = [run.method for run in load_profile(tmp_path / "mine.yaml").runs()]
    assert set(runs) == {
        "base", "smf-tfidf.icd10", "smf-tfidf.icd10-cities", "lora.icd10", "lora.icd10-cities",
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine | yaml.safe_load(more)))
    after = [run.method for run in load_profile(tmp_path / "mine.yaml").runs()]
    assert sorted(set(after) - set(runs)) == [
        "lora.icd10-cities-own", "smf-tfidf.icd10-cities-own"
    ]  # fmt: skip


def test_every_page_is_in_the_contents_and_every_entry_is_a_page():
    def files(entries):
        for entry in entries:
            yield entry["file"]
            yield from files(entry.get("sections", []))

    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = [contents["root"], *(f for part in contents["parts"] for f in files(part["chapters"]))]
    pages = [
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in sorted(BOOK.rglob("*.md"))
        if path.name != "slides.md"  # a page of its own kind, which a lecturer shows
    ]
    assert sorted(name for name in listed if name.startswith("book/")) == sorted(pages)


# Pages to look something up in, the first page, and pages for teachers: they teach no chapter.
NO_CHAPTER = {
    "intro", "api", "why", "notation", "glossary", "bibliography", "about", "teaching",
    "teachers/answers", "06_paper_tables",
}  # fmt: skip


def chapters():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [file for file in files if file.partition("/")[2] not in NO_CHAPTER]


def glossary():
    text = (BOOK / "glossary.md").read_text("utf-8")
    return set(re.findall(r"^(\S.*)\n  \S", text, re.MULTILINE))


@pytest.mark.parametrize("page", chapters())
def test_a_chapter_says_its_aims_and_time_and_ends_with_numbered_exercises(page):
    if page.startswith("notebooks/"):  # in what Jupyter, Colab and nbconvert show as well
        cells = nbformat.read(ROOT / f"{page}.ipynb", 4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        exercise, folded = r"\*\*Exercise (\d) \((\w+), (\d+) minutes\)\.\*\*", "<summary>Solution"
        assert ":::" not in text
    else:
        text = (ROOT / f"{page}.md").read_text("utf-8")
        exercise, folded = (
            r"\{admonition\} Exercise (\d) \((\w+), (\d+) minutes\)",
            ":class: dropdown",
        )
        assert "What this chapter is for" in text
        terms = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)
        assert terms and set(terms) <= glossary(), page
    assert "\n## Take away\n" in text or text.startswith("## Take away\n")
    found = re.findall(exercise, text)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    assert 3 <= len(found) <= 5
    levels = [level for _, level, _ in found]
    assert set(levels) <= {"easy", "medium", "hard"}
    assert levels == sorted(levels, key=["easy", "medium", "hard"].index)
    assert text.count(folded) == len(found)
    promised = re.search(r"\*\*Time:\*\* \d+ minutes to read, (\d+) for the exercises", text)
    assert int(promised[1]) == sum(int(minutes) for *_, minutes in found)


PAGES = [path for path in sorted(BOOK.rglob("*.md")) if path.name != "slides.md"]


@pytest.mark.parametrize("page", PAGES, ids=[path.stem for path in PAGES])
def test_every_table_of_a_page_has_a_caption(page):
    text = page.read_text("utf-8")
    captions = re.findall(r"^```\{(?:list-)?table\}(.*)$", text, re.MULTILINE)
    assert all(caption.strip() for caption in captions)
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\|.*$", outside, re.MULTILINE) == []


MATH = re.compile(r"```\{math\}\n(.*?)```|\$\$(.*?)\$\$|(?<![\\$`\w])\$([^$\n]+)\$", re.DOTALL)
CODE = re.compile(r"^(`{3,})(?:bash|python|yaml)\n.*?^\1$", re.MULTILINE | re.DOTALL)
WORDS = re.compile(r"\\(?:text|mathrm|begin|end|label)\{[^{}]*\}|^:label:.*$", re.MULTILINE)
LETTER = re.compile(r"\\(?:mathbf|mathcal)\{[A-Za-z]\}|\\[A-Za-z]+|[A-Za-z]")
KNOWN = {"e"}  # Euler's number
GREEK = re.compile(
    r"\\((var)?(epsilon|theta|phi|rho|sigma|kappa)|alpha|beta|[Gg]amma|[Dd]elta|zeta|eta|iota|"
    r"[Ll]ambda|mu|nu|[Xx]i|[Pp]i|tau|[Uu]psilon|chi|[Pp]si|[Oo]mega|Theta|Phi|ell)"
)


def letters(maths):
    """The letters of mathematics, bold and script ones for themselves, without words and signs."""
    found = LETTER.findall(WORDS.sub("", re.sub(r"\\mathbb\{R\}", "", maths)))
    return {x for x in found if x[0] != "\\" or "{" in x or GREEK.fullmatch(x)} - KNOWN


def mathematics():
    """All mathematics of each page and notebook but the page on notation: texts by name."""
    texts = {
        path.name: path.read_text("utf-8")
        for path in [*BOOK.glob("*.md"), *BOOK.glob("teachers/*.md")]
        if path.name != "notation.md"
    }
    for path in sorted((BOOK.parent / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        texts[path.name] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return {
        name: ["".join(found) for found in MATH.findall(CODE.sub("", text))]
        for name, text in texts.items()
    }


def notation():
    """The letters of each row's first cell, and those that live in one place only."""
    text = (BOOK / "notation.md").read_text("utf-8")
    rows = [row for row in re.findall(r"^\* - (\$.*)$", text, re.MULTILINE)]
    local = re.search(r"live there only: (.*)\.$", text, re.MULTILINE)[1]
    below = re.compile(r"_(?:\{\\text\{\w+\}\}|\{\w+\}|\\?\w+)")
    return [
        letters(" ".join(re.findall(r"\$([^$]+)\$", below.sub("", row)))) for row in rows
    ], letters(local)


def test_mathematics_is_read():
    shown = (
        r"\mathbf{v}_i = \sum_{t} w_i(t)\,\mathrm{acc} \in \mathbb{R}^{d_{\text{in}}} e^{-\beta_1}"
    )
    assert letters(shown) == {r"\mathbf{v}", "i", "t", "w", "d", r"\beta"}
    assert len(mathematics()["row_selection.md"]) > 80


def test_no_letter_has_two_meanings():
    """A letter stands in one row of the notation, or lives in one proof or exercise of one page."""
    rows, local = notation()
    every = [letter for row in rows for letter in row]
    assert len(rows) > 25 and all(rows)
    assert sorted(every) == sorted(set(every))
    assert len(local) > 3 and not local & set(every)


def test_every_letter_is_in_the_notation_and_every_row_is_used():
    rows, local = notation()
    used = {name: {x for m in found for x in letters(m)} for name, found in mathematics().items()}
    known = set().union(local, *rows)
    assert {name: found - known for name, found in used.items() if found - known} == {}
    assert known == set().union(*used.values())
    assert {x: [n for n, found in used.items() if x in found] for x in local if
            sum(x in found for found in used.values()) != 1} == {}  # fmt: skip


def test_code_names_the_rows_of_a_table_as_the_book_does():
    """M rows; N are the background's sequences, and nothing has N of anything else for a shape."""
    sources = [path.read_text("utf-8") for path in (ROOT / "smf_lib").rglob("*.py")]
    assert not [line for text in sources for line in text.split("\n") if re.search(r"\(N, ?", line)]
    assert sum("(M," in text for text in sources) > 4


def test_the_pictures_are_those_of_their_script():
    spec = importlib.util.spec_from_file_location("pictures", BOOK / "_static/make_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert (BOOK / "_static" / "favicon.svg").read_text("utf-8") == pictures.icon()
    png = (BOOK / "_static" / "social.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == pictures.SIZE
    drawn = {text.get_text() for text in pictures.lookup().axes[0].texts} - {""}
    svg = (BOOK / "_static" / "product_key_lookup.svg").read_text("utf-8")
    assert [words for words in sorted(drawn) if f"<!-- {words} -->" not in svg] == []
    chapter = (BOOK / "memory_layers.md").read_text("utf-8")
    example = chapter.partition("An example to check by hand")[2]
    for words, said in {
        r"$\mathbf{q}^1$ = (1, 2)": r"\mathbf{q}^1 = (1, 2)",
        "4.5": "s_{21} = 4.5",
        "row 7 = (0, 4)": r"\mathbf{v}_7 = (0, 4)",
        "0.622": r"\approx 0.622",
        "(1.245, 1.510)": r"$(1.245,\ 1.510)$",
    }.items():
        assert words in drawn and said in example
