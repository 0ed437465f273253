"""What is kept under work/ and damaged is told in a line and made again, with the same numbers."""

import shutil

import pytest
import yaml

from smf_lib.study.files import kept_json
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.study import Study, run

DAMAGES = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The root of a study with one finished run, its profile, and the run's record."""
    root = tmp_path_factory.mktemp("root")
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text()) | {"name": "mine"}
    profile = root / "mine.yaml"
    profile.write_text(yaml.safe_dump(content))
    study = Study.load(profile, root)
    return root, profile, run(study, study.profile.run("smf-kl"))


def test_damaged_files_are_made_again(done, tmp_path, capsys):
    root, profile, record = done
    for damage in (b"{", b"[]"):
        again = tmp_path / f"again{len(damage)}{damage[:1].hex()}"
        shutil.copytree(root, again)
        files = [p for p in again.rglob("work/kept/**/*.json") if "adapter" not in p.parts]
        files = [p for p in files if p.name != "footprint.json"]
        assert {p.name.split("-")[0] for p in files} >= {"training.json", "self", "background"}
        for path in files:
            path.write_bytes(damage)
        study = Study.load(profile, again)
        made = run(study, study.profile.run("smf-kl"))
        assert {n: m.items for n, m in made.metrics.items()} == {
            n: m.items for n, m in record.metrics.items()
        }
        assert "is damaged; what it held is made again" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_as_good_as_missing(damage, tmp_path, capsys):
    path = tmp_path / f"kept-{damage.hex()}.json"
    path.write_bytes(damage)
    assert kept_json(path) in (None, {})
    said = capsys.readouterr().err
    assert said == ("" if damage == b"{}" else f"{path} is damaged; what it held is made again\n")
    assert kept_json(tmp_path / "none.json") is None and not capsys.readouterr().err
