"""Our model in `transformers` and back: the same ids, logits and text; trained there, too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_tokenizer import PROSE, SPECIAL, TIES, VARIED, with_special

from llmlite.cli import main
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.generate import generate
from llmlite.hub import export_folder, import_folder
from llmlite.pretrained import load_pretrained
from llmlite.tokenizer import BPETokenizer


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(PROSE + TIES, 300)


@pytest.fixture
def config(tiny_config, tokenizer) -> ModelConfig:
    return replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24)


@pytest.fixture
def model(make_model, config):
    return make_model(config)


@pytest.fixture
def exported(model, tokenizer, tmp_path) -> Path:
    export_folder(model, tokenizer, tmp_path / "exported", "a test")
    return tmp_path / "exported"


def theirs_in(folder):
    """(model, tokenizer) as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def assert_same_logits(ours, theirs, make_ids):
    shape = ours.config
    ids = make_ids(3, shape.block_size, vocab_size=shape.vocab_size)
    logits = ours(ids).logits
    assert logits.std() > 0.1  # there is something to compare
    torch.testing.assert_close(theirs.eval()(ids).logits, logits, rtol=0, atol=1e-4)


def test_the_folder_loads_as_gpt2_with_every_weight_in_its_place(exported, model, make_ids):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    theirs, info = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert type(theirs) is GPT2LMHeadModel
    assert not any(info.values()), info
    assert theirs.dtype == torch.float32
    assert theirs.config.layer_norm_epsilon == model.norm.eps
    assert theirs.config.attn_pdrop == theirs.config.resid_pdrop == model.config.dropout
    assert_same_logits(model, theirs, make_ids)
    assert "from a test. Prompt" in (exported / "README.md").read_text("utf-8")


def test_the_ids_are_the_same_and_on_the_way_back_nothing_changes(model, tmp_path):
    ours = BPETokenizer.train(PROSE + TIES, 300)
    export_folder(model, ours, tmp_path / "exported", "a test")
    _, theirs = theirs_in(tmp_path / "exported")
    for text in [*VARIED, PROSE, SPECIAL, "  two  blanks \n\n and 日本 🙂 ́ ", " , . '"]:
        ids = with_special(ours, text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.eot_id
    assert theirs.model_max_length == model.config.block_size
    back = import_folder(tmp_path / "exported", tmp_path / "back")
    assert back.tokenizer.fingerprint == ours.fingerprint
    assert back.model.config == model.config
    for name, weight in back.model.state_dict().items():
        assert weight.equal(model.state_dict()[name]), name
    assert back.record["imported_from"] == str(tmp_path / "exported")


def test_greedy_text_is_the_same(model, tokenizer, exported):
    theirs, _ = theirs_in(exported)
    start = torch.tensor([tokenizer.encode("the cat")])
    ours = generate(model, start, 15, temperature=0)[0].tolist()
    assert len(set(ours)) > 5
    ids = theirs.generate(start, max_new_tokens=15, do_sample=False)[0].tolist()
    assert len(ids) > start.size(1) + 5
    assert ids == ours[: len(ids)]


def test_what_lora_has_learnt_comes_back_also_in_half_precision(exported, tmp_path, make_ids):
    from peft import LoraConfig, get_peft_model

    theirs, their_tokenizer = theirs_in(exported)
    before = theirs.transformer.h[0].attn.c_attn.weight.detach().clone()
    tuned = get_peft_model(theirs, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-2)
    ids = their_tokenizer(PROSE, return_tensors="pt")["input_ids"][:, :20]
    for _ in range(5):
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    merged = tuned.merge_and_unload().bfloat16()
    merged.save_pretrained(tmp_path / "merged")
    their_tokenizer.pad_token = their_tokenizer.eos_token
    their_tokenizer(PROSE, truncation=True, max_length=3)  # leaves a setting in its file
    their_tokenizer.save_pretrained(tmp_path / "merged")
    back = import_folder(tmp_path / "merged", tmp_path / "back")
    after = back.model.blocks[0].attention.qkv.weight
    assert not after.T.allclose(before, atol=1e-2)
    assert_same_logits(back.model, merged.float(), make_ids)


def edit(file: str, **changes):
    """A change of a JSON file in a folder."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text("utf-8"))
        (folder / file).write_text(json.dumps(content | changes), "utf-8")

    return change


def weights(folder: Path, gone: str = "", **more) -> None:
    """A change of the weights in a folder."""
    path = folder / "model.safetensors"
    tensors = {name: weight for name, weight in load_file(path).items() if name != gone}
    save_file(tensors | more, path, {"format": "pt"})


def other_tokenizer(folder: Path) -> None:
    BPETokenizer.train(PROSE, 299).to_tokenizers().save(str(folder / "tokenizer.json"))


def as_pickle(path: Path) -> None:
    """A pickle could run code."""
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("config.json", model_type="llama"), "only a GPT-2"),
        (edit("config.json", activation_function="relu"), "other logits"),
        (edit("config.json", scale_attn_by_inverse_layer_idx=True), "other logits"),
        (edit("config.json", attn_pdrop=0.5), "one dropout"),
        (edit("config.json", n_layer=3), "its weights are not"),
        (edit("config.json", n_layer=1), "its weights are not"),
        (edit("config.json", n_embd=32), "cannot be imported"),
        (edit("config.json", n_head=3), "cannot be imported"),
        (lambda folder: weights(folder, "transformer.ln_f.bias"), "its weights are not"),
        (lambda folder: weights(folder, score=torch.ones(2)), "its weights are not"),
        (lambda folder: as_pickle(folder / "model.safetensors"), "cannot be imported"),
        (lambda folder: (folder / "model.safetensors").write_text("?"), "cannot be imported"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "merge_and_unload"),
        (lambda folder: (folder / "config.json").write_text("?"), "cannot be imported"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be imported"),
        (edit("tokenizer.json", normalizer={"type": "NFC"}), "other ids"),
        (edit("tokenizer.json", added_tokens=[]), "other ids"),
        (edit("tokenizer.json", pre_tokenizer={"type": "Whitespace"}), "other ids"),
        (
            lambda folder: (
                BPETokenizer.train(PROSE, 299).to_tokenizers().save(str(folder / "tokenizer.json"))
            ),
            "its vocabulary is 300, its tokenizer's 299",
        ),
    ],
)
def test_what_would_be_another_model_here_is_refused(
    exported, tmp_path, change, said, one_sentence
):
    change(exported)
    with pytest.raises(LLMLiteError, match=said) as error:
        import_folder(exported, tmp_path / "back")
    assert str(exported) in one_sentence(error)
    assert not (tmp_path / "back").exists()


def test_a_model_without_a_mask_and_a_folder_with_files_are_refused(
    make_model, config, tokenizer, exported, one_sentence
):
    model = make_model(replace(config, causal=False))
    with pytest.raises(LLMLiteError, match="causal mask") as error:
        export_folder(model, tokenizer, exported.parent / "new", "a test")
    one_sentence(error)
    calls = (
        lambda: import_folder(exported, exported),
        lambda: export_folder(model, tokenizer, exported, ""),
    )
    for call in calls:
        with pytest.raises(LLMLiteError, match="new or empty folder") as error:
            call()
        one_sentence(error)


def test_export_import_and_generate_from_a_shell(capsys, tmp_path, make_ids):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    assert main(["export", "--to", there]) == 0
    theirs, their_tokenizer = theirs_in(there)
    shipped = load_pretrained()
    assert_same_logits(shipped.model, theirs, make_ids)
    text = " \n Naïve , the 日本 @-@ <unk> " + SPECIAL
    assert their_tokenizer(text)["input_ids"] == with_special(shipped.tokenizer, text)
    assert main(["import", there, "--to", back]) == 0
    assert f"llmlite generate --model {back}" in capsys.readouterr().out
    assert main(["generate", "the cat", "--tokens", "5", "--model", back]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("\nthe cat")
    assert f"imported from {there}" in err
    assert main(["export", "--to", there, "--data", "nowhere"]) == 2  # before it trains a model
    assert "new or empty" in capsys.readouterr().err
