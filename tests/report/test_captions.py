"""Sentences that captions share."""

from helpers_records import make_record

from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.captions import precision_notes, setting_sentence


def test_number_formats_are_named_where_they_differ():
    same = [make_record(method, precision="bf16") for method in ("base", "full", "smf-kl")]
    arms = group_arms(same)
    assert precision_notes(arms) == [] and "ormats" not in setting_sentence(arms)
    others = [make_record("lora", precision="fp32"), make_record("osf", precision="fp32")]
    told = "Number formats differ: 32-bit floats (LoRA r 16, osf), bfloat16 (the rest)."
    arms = group_arms(same + others)
    assert precision_notes(arms) == [told]
    assert setting_sentence(arms).endswith(f" split, 4 questions. {told}")
    told = "Number formats differ: not recorded (ia3), bfloat16 (the rest)."
    assert precision_notes(group_arms([*same, make_record("ia3")])) == [told]
