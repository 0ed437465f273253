"""What `save_pretrained` writes: card, format version, and what is trained beside the memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    bits,
    memory_config,
    memory_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from smf_lib import RowAdamW, RowPatch, SparseMemoryConfig, register_rule
from smf_lib.study.keys import _memory_settings

FIRST = Path(__file__).resolve().parents[1] / "data" / "first_format"


def optimizer(model):
    return RowAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def trained(**settings):
    model = memory_model(**settings)
    train_step(model, optimizer(model), tokens(2, 9))
    return model


def card(folder):
    return (folder / "README.md").read_text("utf-8")


def test_the_card_says_what_it_is_of_what_and_how_to_load_it(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = type(tiny_model()).from_pretrained(tmp_path / "base")
    model = memory_model(model=base)
    model.add_adapter(
        "other", memory_config(layers=[3], rows_per_step=2, integration="replacement")
    )
    train_step(model, optimizer(model), tokens(2, 9))
    model.save_pretrained(tmp_path / "adapter")
    text = card(tmp_path / "adapter")
    assert text.startswith("---\n") and "\n- sparse-memory\n" in text.split("---")[1]
    assert f"base_model: {tmp_path / 'base'}" in text and "library_name: peft" in text
    assert "64 rows beside the MLP of layers 1 and 2" in text and "rule `count`" in text
    assert "| 1 | 6 of 64 |\n| 2 | 6 of 64 |" in text
    assert "[More Information Needed]" not in text
    block = text.split("```python\n")[1].split("```")[0]
    said = block.replace("the path or name of this folder", str(tmp_path / "adapter"))
    assert isinstance(_run(said)["model"], PeftModel)
    other = card(tmp_path / "adapter" / "other")
    assert "in place of the MLP of layer 3" in other and "| 3 | 0 of 64 |" in other


def _run(code):
    names = {}
    exec(code, names)  # noqa: S102
    return names


def test_what_somebody_wrote_on_the_card_stays_there(tmp_path):
    model = trained()
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags:\n- mine\n---\n\n# My memory\n")
    model.save_pretrained(tmp_path)
    train_step(model, optimizer(model), tokens(2, 9, seed=1))
    model.save_pretrained(tmp_path)
    text = card(tmp_path)
    assert "license: mit" in text and text.count("# My memory") == 1
    assert text.count("# A sparse memory") == text.count("- sparse-memory\n") == 1
    touched = [int((table.row_updates > 0).sum()) for table in tables(model)]
    assert f"| 1 | {touched[0]} of 64 |" in text and touched[0] > 6


def test_a_folder_has_a_format_version_and_one_without_is_read_as_the_first(tmp_path):
    model = trained()
    assert model.peft_config["default"].format_version is None
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    assert settings["format_version"] == 1
    for version in (1, None, "left out"):
        changed = settings | {"format_version": version}
        if version == "left out":
            del changed["format_version"]
        path.write_text(json.dumps(changed))
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert torch.equal(bits(tables(loaded)[0].values), bits(tables(model)[0].values))
    path.write_text(json.dumps(settings | {"format_version": 2}))
    with pytest.raises(ValueError, match="format_version=2 .* install the smf_lib that wrote it"):
        PeftModel.from_pretrained(tiny_model(), tmp_path)


@pytest.mark.parametrize("save_rows", ["all", "touched"])
def test_what_the_first_code_saved_loads_to_its_numbers_trains_on_and_is_saved_again(
    save_rows, tmp_path
):
    """The folder's README says by which code it was made, and how."""

    def loaded(adapter, **settings):
        base = AutoModelForCausalLM.from_pretrained(FIRST / "base")
        return PeftModel.from_pretrained(base, adapter, **settings).eval()

    expected = load_file(FIRST / "expected.safetensors")
    ids = expected["input_ids"]
    assert "format_version" not in json.loads((FIRST / "adapter/adapter_config.json").read_text())
    model = loaded(FIRST / "adapter", is_trainable=True)
    saved = load_file(FIRST / "adapter/adapter_model.safetensors")
    assert sum(int((t > 0).sum()) for name, t in saved.items() if "row_updates" in name) > 6
    assert_same_bits(get_peft_model_state_dict(model), saved)
    near = {"rtol": 1e-4, "atol": 1e-5}  # other processors add up in another order
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected["with_memory"], **near)
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=ids).logits, expected["without"], **near)
    losses = [train_step(model, steps, ids) for steps in [optimizer(model)] * 3]
    assert losses[2] < losses[0]
    model.peft_config["default"].save_rows = save_rows
    model.save_pretrained(tmp_path)
    assert_same_bits(loaded(tmp_path).state_dict(), model.state_dict())


def assert_same_bits(state, expected):
    assert state.keys() == expected.keys()
    assert [n for n, t in expected.items() if not torch.equal(bits(state[n]), bits(t))] == []


def test_a_memory_of_ones_own_rule_loads_where_the_rule_is_unknown(tmp_path):
    from smf_lib.method.rules import RULES

    @register_rule("ratio")
    def ratio(reads, background):
        return reads.counts.double()

    model = trained(rule="ratio")
    model.save_pretrained(tmp_path)
    del RULES["ratio"]
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    with torch.no_grad():
        ids = tokens(2, 9)
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    with pytest.raises(ValueError, match="rule='ratio' is unknown"):
        PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)


# ------------------------------------------------------------------ beside the memory


@pytest.mark.parametrize(
    "settings, changed",
    [
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"trainable_token_indices": [5, 7]}, "token_adapter"),
        ({"trainable_token_indices": {"embed_tokens": [5]}}, "token_adapter"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_dense_weights_beside_the_memory_train_save_and_load(settings, changed, tied, tmp_path):
    base = tiny_model(tie_word_embeddings=tied)
    model = memory_model(model=base, **settings)
    ids = tokens(2, 9)
    ids[:, 0] = 5
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    dense = {n for n in names if ".smf_" not in n}
    assert dense and all(changed in name for name in dense)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    made = optimizer(model)
    for _ in range(2):
        train_step(model, made, ids)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert dense <= moved and {n.rpartition(".")[2] for n in moved - dense} == {"values"}
    assert all(table.row_updates.sum() == 12 for table in tables(model))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(tie_word_embeddings=tied), tmp_path).eval()
    model.eval()
    with torch.no_grad():
        plain = tiny_model(tie_word_embeddings=tied)(input_ids=ids).logits
        expected = model(input_ids=ids).logits
        assert torch.equal(loaded(input_ids=ids).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, plain)
    assert not torch.equal(expected, plain)


def test_a_classifiers_head_is_trained_and_saved(tmp_path):
    def classifier():
        torch.manual_seed(0)
        config = LlamaConfig(**ARCHITECTURES["Llama"], vocab_size=64, pad_token_id=0, num_labels=3)
        return AutoModelForSequenceClassification.from_config(config).eval()

    model = get_peft_model(classifier(), memory_config(task_type="SEQ_CLS"))
    ids, labels = tokens(4, 9), torch.tensor([0, 1, 2, 0])
    head = next(
        p for n, p in model.named_parameters() if n.endswith("score.modules_to_save.default.weight")
    )
    before, made = head.detach().clone(), optimizer(model)
    losses = [train_step(model, made, ids, labels=labels) for _ in range(8)]
    assert losses[-1] < losses[0] and not torch.equal(head, before)
    assert all(table.row_updates.sum() == 8 * 6 for table in tables(model))
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    loaded = PeftModel.from_pretrained(classifier(), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["mlp", "layers", "1.mlp", "model"])
def test_a_module_with_a_memory_in_it_is_not_saved_whole(name):
    with pytest.raises(ValueError, match=rf"modules_to_save=\['{name}'\] names '{name}'"):
        get_peft_model(tiny_model(), memory_config(modules_to_save=[name]))


@pytest.mark.parametrize(
    "settings", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5]}]
)
def test_a_row_patch_of_a_memory_with_dense_weights_beside_it_is_refused(settings):
    with pytest.raises(ValueError, match=rf"{next(iter(settings))}=.* store this finetune with"):
        RowPatch.from_model(trained(**settings))


def test_two_adapters_have_heads_of_their_own():
    model = memory_model(modules_to_save=["lm_head"])
    model.add_adapter("other", memory_config(modules_to_save=["lm_head"]))
    train_step(model, optimizer(model), tokens(2, 9))
    model.set_adapter("other")
    model.eval()
    with torch.no_grad():
        ids = tokens(2, 9)
        assert torch.equal(model(input_ids=ids).logits, tiny_model()(input_ids=ids).logits)


def test_settings_of_the_saved_folder_are_no_part_of_a_key():
    config = SparseMemoryConfig()
    for name in ("modules_to_save", "trainable_token_indices", "format_version"):
        assert getattr(config, name) is None
    settings = [_memory_settings(SparseMemoryConfig(save_rows=rows)) for rows in ("all", "touched")]
    assert settings[0] == settings[1] and "save_rows" not in settings[0]
