"""Executed notebooks that are kept with records, and shown where nothing is run."""

import pytest
from helpers_book import REPOSITORY, executed, notebook, write
from nbformat import v4

from smf_lib.report.book.__main__ import main
from smf_lib.report.book.executed import BY_HAND, kept_page
from smf_lib.report.book.pages import BookError, read_notebook

CODE = "print('rows')"
PAGES = {
    "04_selection": ("quick", "04_selection", "`make book` runs"),
    "02_finetune_lora-seed0": ("quick", "02_finetune", "`make book` runs"),
    "08_patches": ("patches", "08_patches", "papermill runs"),
}


@pytest.fixture(params=PAGES)
def kept(request, tmp_path):
    """A repository with an executed notebook, kept by the command; its page and its profile."""
    profile, name, runs = PAGES[request.param]
    source = notebook((CODE,))
    write(source, tmp_path / "notebooks" / f"{name}.ipynb")
    said = v4.new_output("stream", name="stdout", text=f"12 rows in {tmp_path}/work\n")
    done = executed(source, [said], profile=str(tmp_path / "mine.yaml"), seed=3)
    done.metadata["papermill"]["output_path"] = str(tmp_path)
    work = tmp_path / "work" / profile / "notebooks"
    write(done, work / f"{request.param}.ipynb")
    write(done, work / "03_results.ipynb")
    assert page_of(tmp_path, request.param)[2].startswith("*This notebook loads the model, so")
    arguments = ["keep", "--profile", profile, "--source", str(tmp_path), "--root", str(tmp_path)]
    assert main(arguments) == 0
    return tmp_path, profile, request.param, runs


def page_of(root, page):
    return kept_page(page, root, root / "results")


def test_outputs_are_kept_without_what_belongs_to_the_machine(kept):
    root, profile, page, _ = kept
    folder = root / "results" / profile / "reference" / "notebooks"
    assert [path.name for path in folder.iterdir()] == [f"{page}.ipynb"]  # 03 reads records
    assert str(root) not in (folder / f"{page}.ipynb").read_text()


def test_a_page_shows_what_is_kept_with_its_parameters_and_date(kept):
    root, profile, page, _ = kept
    shown, values, line = page_of(root, page)
    assert shown.cells[-1].outputs[0].text == "12 rows in work\n"
    assert values == {"profile": "mine", "seed": 3}
    assert line == f"*Recorded by profile `{profile}`, 23 November 2026, in 12 s.*"


def test_what_other_code_gave_is_not_shown(kept):
    root, _, page, runs = kept
    name = PAGES[page][1]
    write(notebook((CODE + "  # changed",)), root / "notebooks" / f"{name}.ipynb")
    shown, values, line = page_of(root, page)
    assert not shown.cells[-1].outputs and not values
    assert "by other code than it has now" in line and runs in line
    write(notebook((CODE,), "More text."), root / "notebooks" / f"{name}.ipynb")
    assert page_of(root, page)[0].cells[-2].outputs  # words may change


def test_what_was_changed_since_it_was_kept_is_told(kept):
    root, profile, page, _ = kept
    path = root / "results" / profile / "reference" / "notebooks" / f"{page}.ipynb"
    path.write_text(path.read_text().replace("12 rows", "13 rows"))
    with pytest.raises(BookError, match=f"{page}.ipynb was changed .* keep --profile {profile}"):
        page_of(root, page)
    path.write_text(path.read_text()[:-50])
    with pytest.raises(BookError, match=f"{page}.ipynb is not a whole notebook"):
        page_of(root, page)


def test_nothing_to_keep_is_said(tmp_path, capsys):
    assert main(["keep", "--profile", "smoke", "--root", str(tmp_path)]) == 1
    assert "work/smoke/notebooks holds no executed notebook that loads" in capsys.readouterr().err


def test_notebooks_by_hand_have_a_profile_of_their_own():
    for name, profile in BY_HAND.items():
        source = read_notebook(REPOSITORY / "notebooks" / f"{name}.ipynb")
        cell = next(c for c in source.cells if "parameters" in c.metadata.get("tags", []))
        assert f'profile: str = "{profile}"' in cell.source
