"""Our model in `transformers` and back: the same ids, logits and text."""

import ast
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_tokenizer import PROSE, VARIED

from llmlite.files import LLMLiteError
from llmlite.generate import generate
from llmlite.hub import export_folder, import_folder
from llmlite.run import RECORD
from llmlite.tokenizer import END_OF_TEXT, BPETokenizer

TEXTS = [PROSE, *VARIED[:-1], "  two  blanks \n\n and\t\r\n", " , . '"]
SMALLER = BPETokenizer.train(PROSE, 299).to_tokenizers().to_str()
SPECIAL = json.loads(SMALLER)["added_tokens"][0]
INF = float("inf")
ENDLESS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
PREFIX = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
# Each of 43 merges joins the token before it with itself: 2⁴³ bytes.
DOUBLED = {"a": 0} | {str(number): 255 + number for number in range(1, 44)}
BOMB = {"type": "BPE", "vocab": DOUBLED, "merges": [[token, token] for token in DOUBLED][:-1]}
BOMB = {"model": BOMB, "added_tokens": [SPECIAL | {"id": 44}]}
MORE = [SPECIAL | {"id": 299}, SPECIAL | {"id": 300, "content": "zzz"}]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(PROSE, 300)


@pytest.fixture
def model(make_model, tiny_config):
    return make_model(replace(tiny_config, vocab_size=300, block_size=24))


@pytest.fixture
def exported(model, tokenizer, tmp_path) -> Path:
    export_folder(model, tokenizer, tmp_path / "exported", "a test")
    return tmp_path / "exported"


def theirs_in(folder):
    """(model, tokenizer) as transformers loads them, with nothing missing or left over."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model, AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def assert_same_logits(ours, theirs, make_ids):
    ids = make_ids(3, ours.config.block_size, vocab_size=ours.config.vocab_size)
    logits = ours(ids).logits
    assert logits.std() > 0.1  # there is something to compare
    torch.testing.assert_close(theirs.eval()(ids).logits, logits, rtol=0, atol=1e-4)


def test_the_folder_is_a_gpt2_that_says_the_same(exported, model, tokenizer, make_ids):
    theirs, their_tokenizer = theirs_in(exported)
    config = theirs.config
    assert config.layer_norm_epsilon == model.norm.eps
    assert config.attn_pdrop == config.resid_pdrop == config.embd_pdrop == model.config.dropout
    assert config.exported_by_llmlite == "a test"
    assert their_tokenizer.eos_token_id == their_tokenizer.bos_token_id == tokenizer.eot_id
    assert config.eos_token_id == config.bos_token_id == tokenizer.eot_id
    assert their_tokenizer.model_max_length == model.config.block_size
    assert_same_logits(model, theirs, make_ids)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert their_tokenizer(text)["input_ids"] == ids
        assert their_tokenizer.decode(ids) == text
    special = [*tokenizer.encode("a "), tokenizer.eot_id, *tokenizer.encode(" b")]
    assert their_tokenizer(f"a {END_OF_TEXT} b")["input_ids"] == special
    start = torch.tensor([tokenizer.encode("It's a hard")])
    ids = theirs.generate(start, max_new_tokens=12, do_sample=False)[0].tolist()
    assert ids == generate(model, start, 12, temperature=0)[0, : len(ids)].tolist()


def test_on_the_way_back_nothing_changes(exported, model, tokenizer, tmp_path, make_ids):
    back, half = import_folder(exported, tmp_path / "back"), tmp_path / "half"
    assert back.tokenizer.fingerprint == tokenizer.fingerprint
    assert back.model.config == model.config
    for name, weight in back.model.state_dict().items():
        assert weight.equal(model.state_dict()[name]), name
    assert back.record["imported_from"] == str(exported)
    assert str(tmp_path / "back") in str(back)
    theirs, their_tokenizer = theirs_in(exported)
    theirs.bfloat16().save_pretrained(half)
    their_tokenizer.pad_token = their_tokenizer.eos_token
    their_tokenizer(PROSE, truncation=True, max_length=3)  # leaves a setting in its file
    their_tokenizer.save_pretrained(half)
    content, weights = (half / "tokenizer.json"), load_file(half / "model.safetensors")
    saved = json.loads(content.read_text("utf-8"))
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]  # as once
    content.write_text(json.dumps(saved), "utf-8")
    weights = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    old = {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "lm_head.weight": weights["wte.weight"] + 0}
    save_file(weights | old, half / "model.safetensors", {"format": "pt"})
    assert_same_logits(import_folder(half, tmp_path / "again").model, theirs.float(), make_ids)


REFUSED = [  # a file, changes of what is in it by name or all of it, what is said
    ("config.json", {"model_type": "llama"}, "only a GPT-2"),
    ("config.json", {"activation_function": "relu"}, "other logits.* activation_function"),
    ("config.json", {"n_inner": 10**9}, "other logits.* n_inner"),
    ("config.json", {"n_layer": 3}, "its weights are not"),
    ("config.json", {"n_embd": 8192}, "its weights are not"),  # 6 GB of them
    ("config.json", {"n_layer": 10**9}, "n_layer is 1000000000; allowed: a whole number"),
    ("config.json", "{}", "not as transformers writes it .* 'model_type'"),
    ("config.json", "[" * 10**5, "it nests too deeply"),
    ("config.json", os.mkfifo, "it is no regular file"),
    ("model.safetensors", os.mkfifo, "no file model.safetensors"),
    ("model.safetensors", {"transformer.ln_f.bias": torch.full([16], INF)}, "no finite numbers"),
    ("model.safetensors", {"lm_head.weight": torch.ones(300, 16)}, "is not its embedding"),
    ("model.safetensors", {"score": torch.ones(2)}, "its weights are not"),
    ("model.safetensors", None, "cannot be imported"),  # what is left, a pickle, could run code
    ("adapter_config.json", "{}", "merge_and_unload"),
    ("tokenizer.json", "?", "cannot be imported"),
    ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "its normalizer is NFC.* other ids"),
    ("tokenizer.json", {"pre_tokenizer": ENDLESS}, "its pre_tokenizer is Split.* other ids"),
    ("tokenizer.json", {"pre_tokenizer": PREFIX}, "would give other ids"),
    ("tokenizer.json", {"added_tokens": MORE}, "one special token.* 300 here.*zzz"),
    ("tokenizer.json", {"added_tokens": [SPECIAL | {"id": 0}]}, "the last number, .* 299 here"),
    ("tokenizer.json", BOMB, "of more than 16,777,216 bytes"),
    ("tokenizer.json", SMALLER, "for 300 tokens, its tokenizer has 299; if .* was padded"),
]


@pytest.mark.parametrize(("file", "changes", "said"), REFUSED)
def test_another_model_is_refused(exported, tmp_path, file, changes, said):
    path = exported / file
    if changes is None:
        torch.save(load_file(path), exported / "pytorch_model.bin")
        path.unlink()
    elif callable(changes):
        path.unlink()
        changes(path)
    elif isinstance(changes, str):
        path.write_text(changes, "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    else:
        save_file(load_file(path) | changes, path, {"format": "pt"})
    with pytest.raises(LLMLiteError, match=said) as error:
        import_folder(exported, tmp_path / "back")
    assert str(exported) in str(error.value)
    assert not (tmp_path / "back").exists()


def test_a_model_without_a_mask_is_refused(make_model, model, tokenizer, tmp_path):
    unmasked = make_model(replace(model.config, causal=False))
    with pytest.raises(LLMLiteError, match="causal mask"):
        export_folder(unmasked, tokenizer, tmp_path, "")


def test_what_was_broken_off_is_taken_up_again(model, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".unfinished").symlink_to(tmp_path / "of mine")
    for broken, again in (
        ("transformers.PreTrainedTokenizerFast.save_pretrained", export_folder),
        ("llmlite.hub.write_json", lambda *_: import_folder(tmp_path / "there", tmp_path / "back")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(broken, Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                again(model, tokenizer, tmp_path / "there", "")
        again(model, tokenizer, tmp_path / "there", "")
        with pytest.raises(LLMLiteError, match="new or empty folder"):
            again(model, tokenizer, tmp_path / "there", "")
    (tmp_path / "back" / ".unfinished").symlink_to(tmp_path / "back" / RECORD)
    with pytest.raises(LLMLiteError, match="new or empty folder"):
        again(model, tokenizer, tmp_path / "there", "")
    assert not (tmp_path / "of mine").exists()


def test_export_import_and_generate_from_a_shell(llmlite, tmp_path):
    there, back = tmp_path / """a "b" \\c""", tmp_path / "it's $HOME"  # printed to be typed
    (there / ".git").mkdir(parents=True)  # no file that would be lost
    code = llmlite("export", "--to", there).splitlines()[-1].removeprefix("With transformers: ")
    assert ast.parse(code).body[0].value.func.args[1].value == str(there)
    command = llmlite("import", there, "--to", back).split(": ")[-1]
    assert shlex.split(command) == ["llmlite", "generate", "--model", str(back)]
    refused = llmlite("generate", "--model", there, code=2)
    assert f"llmlite import {shlex.quote(str(there))} --to FOLDER." in refused
    words = "generate", "the cat", "--tokens", "5"
    assert llmlite(*words) == llmlite(*words, "--model", back)
    for again in (("export", "--data", "nowhere", "--to", there), ("import", there, "--to", back)):
        assert "new or empty folder." in llmlite(*again, code=2), "before it trains a model"
