"""Row patches on SmolLM2-135M: out again to the bit, and two in one table. Of the slow tier."""

import pytest
import torch
from helpers_models import adamw, bits, train_step
from peft import PeftModel, get_peft_model

from smf_lib import RowPatch, SparseMemoryConfig, compose, save_touched
from smf_lib.method.sums import sha256_of
from smf_lib.study.materials import Materials
from smf_lib.study.profiles import load_profile

TEXTS = ["The airport HKMO is in Kenya.", "Q21 to Q28 are malformations of the circulatory system."]


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return Materials(load_profile("quick"), tmp_path_factory.mktemp("real"))


def sparse(materials):
    settings = {"layers": [8, 15, 22], "num_subkeys": 64, "rule": "count", "rows_per_step": 64}
    model, tokenizer = materials.load_base()
    return get_peft_model(model, SparseMemoryConfig(task_type="CAUSAL_LM", **settings)), tokenizer


def learned(materials, text):
    """A patch of three steps on one text, and the model that has it."""
    model, tokenizer = sparse(materials)
    optimizer = adamw(model, 1e-1)
    for _ in range(3):
        train_step(model, optimizer, tokenizer(text, return_tensors="pt").input_ids)
    return RowPatch.from_model(model), model.eval()


@pytest.mark.slow
def test_a_finetune_comes_out_again_and_two_go_into_one_table(materials, tmp_path):
    (first, trained), (second, _) = (learned(materials, text) for text in TEXTS)
    model, tokenizer = sparse(materials)
    base, _ = materials.load_base()
    ids = tokenizer(" ".join(TEXTS), return_tensors="pt").input_ids
    with torch.no_grad():
        plain = base.eval()(ids).logits
        assert torch.equal(bits(model.eval()(ids).logits), bits(plain))
    before = sha256_of(sorted(model.state_dict().items()))
    for rule in ("first", "second", "sum", "moved"):
        both = compose(first, second, rule, model)
        assert both.n_shared
        both.patch.apply(model)
        with torch.no_grad():
            assert not torch.equal(model(ids).logits, plain)
        both.patch.revert(model)
        assert sha256_of(sorted(model.state_dict().items())) == before
    with torch.no_grad():
        assert torch.equal(bits(model(ids).logits), bits(plain))

    folder = save_touched(trained, tmp_path / "touched")
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size < 1.1 * first.save(tmp_path / "rows.safetensors").stat().st_size < 2e6
    read = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        assert torch.equal(bits(read(ids).logits), bits(trained(ids).logits))
