"""What pages say of records that other code or data made."""

from helpers_records import study_records

from smf_lib.report.analysis import states
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.records.results import read_records


def test_recorded_studies_say_how_they_stand_to_today():
    folder = PROFILE_DIR.parent / "results"
    for profile in ("quick", "medmcqa-qwen-coder"):
        found = [r for r in read_records(folder / profile) if r.study == "reference"]
        told = states.state_sentence(found)
        assert told.startswith(f"Study {profile}/reference was recorded ") and told.endswith(".")


def test_runs_are_named_where_they_differ(monkeypatch):
    found = {"base": "current", "lora": "current", "smf-kl": "other code and data"}
    monkeypatch.setattr(states, "record_state", lambda record, study: found[record.method])
    assert states.state_sentence(study_records(methods=("base", "lora"))) == (
        "Study quick/local was recorded with today's code, data and settings."
    )
    assert states.state_sentence(study_records(methods=tuple(found))) == (
        "Study quick/local was recorded with today's code, data and settings (Base model and "
        "LoRA r 16); with other code and data (SMF, KL)."
    )


def test_a_profile_that_is_gone_is_said():
    records = [
        record.model_copy(update={"profile": "gone"}) for record in study_records(methods=("base",))
    ]
    told = states.state_sentence(records)
    assert told == "Study gone/local was recorded with a profile that is not here."
