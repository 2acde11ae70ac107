"""Our model in `transformers` and back: the same ids, logits and text; trained there, too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_interchange import LETTERS_OR_NOT, PLAIN, SPECIAL
from test_tokenizer import PROSE, TIES

from llmlite.checkpoint import save_model
from llmlite.cli import main
from llmlite.config import ModelConfig
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.generate import generate
from llmlite.gpt2 import from_gpt2, gpt2_config, shape_of, to_gpt2
from llmlite.huggingface import EXPORTED, IMPORTED, export_folder, import_folder
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
def assert_same_logits(ours, theirs, make_ids, atol=1e-4):
    shape = ours.config
    ids = make_ids(3, shape.block_size, vocab_size=shape.vocab_size)
    logits = ours(ids).logits
    assert logits.std() > 0.1  # there is something to compare
    torch.testing.assert_close(theirs.eval()(ids).logits, logits, rtol=0, atol=atol)


def assert_same_weights(one: Path, other: Path):
    """Of two exports, bit for bit; safetensors orders what else is in the header by chance."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- there ----------------------------------------------------------------------------------------


def test_the_folder_loads_as_gpt2_with_every_weight_in_its_place(exported, model, config):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    theirs, info = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert type(theirs) is GPT2LMHeadModel
    assert not any(info.values()), info
    assert theirs.dtype == torch.float32
    assert theirs.config.n_positions == config.block_size
    assert theirs.config.layer_norm_epsilon == model.norm.eps == model.blocks[0].norm1.eps
    assert theirs.config.attn_pdrop == theirs.config.resid_pdrop == config.dropout
    assert files_of(exported) == set(EXPORTED)


@pytest.mark.parametrize("pattern", [None, LETTERS_OR_NOT], ids=["GPT-2's", "letters or not"])
def test_the_ids_are_the_same(make_model, config, pattern, tmp_path):
    options = {"pattern": pattern} if pattern else {}
    ours = BPETokenizer.train(PROSE + TIES, 300, **options)
    export_folder(make_model(config), ours, tmp_path / "exported", "a test")
    _, theirs = theirs_in(tmp_path / "exported")
    for text in [*PLAIN, SPECIAL, "  two  blanks \n\n and 日本 🙂 ́ ", " , . '", ""]:
        ids = ours.encode(text, allow_special=True)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.eot_id
    assert theirs.model_max_length == config.block_size
    assert theirs.clean_up_tokenization_spaces is False  # older versions of transformers heed it


def test_the_logits_are_the_same(model, exported, make_ids):
    assert_same_logits(model, theirs_in(exported)[0], make_ids)


def test_the_logits_of_the_model_that_comes_with_the_package_are_the_same(
    capsys, tmp_path, make_ids
):
    assert main(["export", "--to", str(tmp_path / "shipped")]) == 0
    theirs, their_tokenizer = theirs_in(tmp_path / "shipped")
    shipped = load_pretrained()
    assert_same_logits(shipped.model, theirs, make_ids)
    text = " \n Naïve , the 日本 @-@ <unk> " + SPECIAL
    assert their_tokenizer(text)["input_ids"] == shipped.tokenizer.encode(text, allow_special=True)


def test_greedy_text_is_the_same(model, tokenizer, exported):
    theirs, _ = theirs_in(exported)
    start = torch.tensor([tokenizer.encode("the cat")])
    ours = generate(model, start, 15, temperature=0)[0].tolist()
    assert len(set(ours)) > 5
    ids = theirs.generate(start, max_new_tokens=15, do_sample=False)[0].tolist()
    assert len(ids) > start.size(1) + 5
    assert ids == ours[: len(ids)]
    assert len(ids) == len(ours) or ids[-1] == tokenizer.eot_id


def test_the_lines_of_the_readme_run(exported, config, monkeypatch, capsys):
    text = (exported / "README.md").read_text("utf-8")
    assert f"context {config.block_size} tokens" in text
    assert "from: a test\n" in text
    code = text.split("```python\n")[1].split("```")[0]
    assert code.count("\n") == 3
    monkeypatch.chdir(exported.parent)
    exec(code, {})
    assert capsys.readouterr().out.startswith(" \n The uni")


def test_lm_eval_scores_it_as_we_do(model, tokenizer, exported):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    context, continuation = "the cat", " sat on"
    request = Instance("loglikelihood", {}, (context, continuation), 0)
    theirs = HFLM(pretrained=str(exported), device="cpu", batch_size=1)
    ((nats, greedy),) = theirs.loglikelihood([request], disable_tqdm=True)
    ids = torch.tensor([tokenizer.encode(context) + tokenizer.encode(continuation)])
    n = len(tokenizer.encode(continuation))
    with torch.inference_mode():
        scores = model(ids[:, :-1]).logits.log_softmax(-1)[0, -n:]
    assert nats == pytest.approx(scores.gather(1, ids[0, -n:, None]).sum().item(), abs=1e-4)
    assert greedy == scores.argmax(-1).equal(ids[0, -n:])


# -- and back -------------------------------------------------------------------------------------


def test_there_and_back_nothing_has_changed(model, tokenizer, exported, tmp_path):
    back = import_folder(exported, tmp_path / "back")
    assert back.model.config == model.config
    assert back.tokenizer.fingerprint == tokenizer.fingerprint
    ours = model.state_dict()
    for name, weight in back.model.state_dict().items():
        assert weight.dtype == torch.float32
        assert weight.equal(ours[name]), name
    assert back.record["imported_from"] == str(exported)
    assert back.record["parameters"] == model.n_parameters()
    assert files_of(tmp_path / "back") == set(IMPORTED)
    export_folder(back.model, back.tokenizer, tmp_path / "again", "a test")
    for name in set(EXPORTED) - {"README.md", "model.safetensors"}:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name
    assert_same_weights(tmp_path / "again", exported)


def test_what_lora_has_learnt_comes_back(exported, tmp_path, make_ids):
    from peft import LoraConfig, get_peft_model

    theirs, their_tokenizer = theirs_in(exported)
    before = theirs.state_dict()["transformer.h.0.attn.c_attn.weight"].clone()
    lora = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = get_peft_model(theirs, lora).eval()  # without dropout, so that the loss must fall
    optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-2)
    ids = their_tokenizer(PROSE, return_tensors="pt")["input_ids"][:, :20]
    losses = []
    for _ in range(5):
        loss = tuned(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    their_tokenizer.save_pretrained(tmp_path / "merged")
    back = import_folder(tmp_path / "merged", tmp_path / "back")
    after = to_gpt2(back.model.state_dict())["transformer.h.0.attn.c_attn.weight"]
    assert not after.allclose(before, atol=1e-3)
    assert_same_logits(back.model, merged, make_ids)


def test_what_the_trainer_of_transformers_has_saved_comes_back(exported, tmp_path, make_ids):
    from transformers import Trainer, TrainingArguments

    theirs, their_tokenizer = theirs_in(exported)
    their_tokenizer.pad_token = their_tokenizer.eos_token
    ids = their_tokenizer(PROSE)["input_ids"][:20]
    settings = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = [{"input_ids": ids, "labels": ids}] * 6
    trainer = Trainer(theirs, settings, train_dataset=rows, processing_class=their_tokenizer)
    trainer.train()
    trainer.save_model(tmp_path / "trained")
    back = import_folder(tmp_path / "trained", tmp_path / "back")
    before = load_file(exported / "model.safetensors")["transformer.wte.weight"]
    assert not back.model.token_embedding.weight.allclose(before, atol=1e-3)
    assert_same_logits(back.model, trainer.model, make_ids)


def test_half_precision_comes_back_as_the_same_numbers(model, exported, tmp_path):
    theirs, their_tokenizer = theirs_in(exported)
    theirs.bfloat16().save_pretrained(tmp_path / "half")
    their_tokenizer.save_pretrained(tmp_path / "half")
    back = import_folder(tmp_path / "half", tmp_path / "back")
    for name, weight in model.state_dict().items():
        assert back.model.state_dict()[name].equal(weight.bfloat16().float()), name


def test_the_names_of_gpt2s_first_files_are_understood(model, config):
    ours = model.state_dict()
    theirs = {k.removeprefix("transformer."): w for k, w in to_gpt2(ours).items()}
    theirs["lm_head.weight"] = theirs["wte.weight"].clone()
    theirs |= {"h.0.attn.bias": torch.ones(24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    back = from_gpt2(theirs, config, "weights")
    assert back.keys() == ours.keys()
    assert all(back[name].equal(ours[name]) for name in ours)


# -- folders --------------------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_and_dotfiles_stay(model, tokenizer, exported):
    (exported / ".gitattributes").write_text("mine")
    with torch.no_grad():
        model.norm.bias += 1
    export_folder(model, tokenizer, exported, "a test")
    weights = load_file(exported / "model.safetensors")
    assert weights["transformer.ln_f.bias"].equal(model.norm.bias)
    assert files_of(exported) == {*EXPORTED, ".gitattributes"}


def test_an_earlier_import_is_replaced(exported, tmp_path):
    import_folder(exported, tmp_path / "back")
    import_folder(exported, tmp_path / "back")
    assert files_of(tmp_path / "back") == set(IMPORTED)


def retrain(exported: Path) -> None:
    """What somebody has trained on may lie under the same names."""
    theirs, their_tokenizer = theirs_in(exported)
    theirs.save_pretrained(exported)
    their_tokenizer.save_pretrained(exported)


@pytest.mark.parametrize(
    "change", [retrain, lambda folder: (folder / "notes.txt").write_text("mine")]
)
def test_what_is_not_ours_is_never_replaced(model, tokenizer, exported, change, one_sentence):
    change(exported)
    before = {path: path.read_bytes() for path in exported.iterdir()}
    with pytest.raises(LLMLiteError, match="new or empty folder") as error:
        export_folder(model, tokenizer, exported, "a test")
    assert str(exported) in one_sentence(error)
    with pytest.raises(LLMLiteError, match="new or empty folder") as error:
        import_folder(exported, exported)
    one_sentence(error)
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_stays(model, tokenizer, exported, tmp_path, monkeypatch, there):
    target = exported if there else tmp_path / "new"
    before = {path: path.read_bytes() for path in exported.iterdir()}

    def fail(self, path):
        raise OSError("no more")

    monkeypatch.setattr(BPETokenizer, "save_tokenizer_json", fail)
    with torch.no_grad():
        model.norm.bias += 1
    with pytest.raises(OSError, match="no more"):
        export_folder(model, tokenizer, target, "a test")
    assert files_of(tmp_path) == {"exported"}
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


# -- what is refused ------------------------------------------------------------------------------


def test_a_model_without_a_mask_is_not_exported(
    make_model, config, tokenizer, tmp_path, one_sentence
):
    model = make_model(replace(config, causal=False))
    with pytest.raises(LLMLiteError, match="causal mask") as error:
        export_folder(model, tokenizer, tmp_path / "out", "a test")
    one_sentence(error)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_size_is_refused(model, exported, tmp_path, one_sentence):
    other = BPETokenizer.train(PROSE + TIES, 299)
    with pytest.raises(CheckpointError, match=r"300, its tokenizer one of 299") as error:
        export_folder(model, other, tmp_path / "out", "a test")
    one_sentence(error)
    other.save_tokenizer_json(exported / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"300, its tokenizer one of 299") as error:
        import_folder(exported, tmp_path / "back")
    assert str(exported) in one_sentence(error)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "type 'llama'"),
        ({"n_layer": None}, "n_layer as a number"),
        ({"attn_pdrop": "much"}, "attn_pdrop as a number"),
        ({"attn_pdrop": 0.5}, "several dropouts"),
        ({"activation_function": "relu"}, "activation_function relu"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"n_inner": 60}, "n_inner 60, and llmlite's GPT computes with None or 64"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"n_head": 3}, "a multiple of n_head"),
        ({"n_embd": 32}, r"no wte.weight of the shape \(300, 32\)"),
        ({"n_layer": 3}, "no h.2.ln_1.weight"),
        ({"n_layer": 1}, r"has h\.1\..*, which GPT2LMHeadModel does not have"),
    ],
)
def test_another_shape_than_ours_is_refused(exported, tmp_path, change, said, one_sentence):
    path = exported / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change))
    with pytest.raises(LLMLiteError, match=said) as error:
        import_folder(exported, tmp_path / "back")
    one_sentence(error)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("change", [{"n_inner": 64}, {"activation_function": "gelu_pytorch_tanh"}])
def test_other_words_for_the_same_shape_are_understood(config, change):
    assert shape_of(gpt2_config(config, 299) | change, "config.json") == config


def test_the_defaults_are_those_of_transformers(config):
    from transformers import GPT2Config

    sizes = dict.fromkeys(("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"), 8)
    sizes["model_type"] = "gpt2"
    everything = GPT2Config(**sizes).to_dict()
    assert shape_of(sizes, "config.json") == shape_of(everything, "config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update({"lm_head.weight": w["transformer.wte.weight"] + 1}), "lm_head of its"),
        (lambda w: w.update({"score.weight": torch.ones(2)}), "has score.weight, which"),
        (lambda w: w.pop("transformer.ln_f.bias"), "no ln_f.bias"),
        (
            lambda w: w.update({"transformer.ln_f.bias": torch.ones(16, dtype=torch.int8)}),
            "ln_f.bias as torch.int8",
        ),
    ],
)
def test_other_weights_than_ours_are_refused(exported, tmp_path, change, said, one_sentence):
    path = exported / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=said) as error:
        import_folder(exported, tmp_path / "back")
    assert str(path) in one_sentence(error)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("gone", "there", "said"),
    [
        ("model.safetensors", "pytorch_model.bin", "There is no model.safetensors"),
        ("model.safetensors", "model.safetensors.index.json", "max_shard_size"),
        ("model.safetensors", "adapter_config.json", "merge_and_unload"),
        ("model.safetensors", "model.safetensors", "damaged or not a model"),
        ("config.json", "other.json", "config.json cannot be read"),
        ("config.json", "config.json", "config.json cannot be read"),
        ("tokenizer.json", "vocab.json", "no tokenizer.json"),
    ],
)
def test_a_folder_with_other_files_is_refused(exported, tmp_path, gone, there, said, one_sentence):
    (exported / gone).unlink()
    (exported / there).write_text("?")
    with pytest.raises(CheckpointError, match=said) as error:
        import_folder(exported, tmp_path / "back")
    assert str(exported) in one_sentence(error)
    assert not (tmp_path / "back").exists()


# -- the command line -----------------------------------------------------------------------------


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_export_import_and_generate_from_a_shell(capsys, exported, tmp_path):
    code, out, _ = run(capsys, "import", exported, "--to", tmp_path / "back")
    assert code == 0
    assert f"llmlite generate --model {tmp_path / 'back'}" in out
    arguments = ["generate", "the cat", "--tokens", 5, "--model", tmp_path / "back"]
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert out.startswith("\nthe cat")
    assert f"imported from {exported}" in err
    code, out, _ = run(capsys, "export", "--model", tmp_path / "back", "--to", tmp_path / "again")
    assert code == 0
    assert_same_weights(tmp_path / "again", exported)


def test_what_a_shell_cannot_have_is_one_sentence(capsys, exported, tmp_path):
    def refused(*arguments) -> str:
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert err.startswith("llmlite: ")
        assert err.endswith(".\n")
        assert err.count("\n") == 1
        return err

    (tmp_path / "notes.txt").touch()
    assert "new or empty" in refused("export", "--to", tmp_path, "--data", tmp_path / "nowhere")
    assert f"llmlite import {exported}" in refused("generate", "--model", exported)
    assert "There is no model" in refused("generate", "--model", tmp_path / "nothing")
    words = ["--n-layer", 2, "--profile", "quick"]
    assert "--n-layer, --profile would" in refused("generate", "--model", exported, *words)


def test_a_model_without_a_record_is_named(model, tokenizer, tmp_path, one_sentence):
    about = {"tokenizer_fingerprint": tokenizer.fingerprint}
    save_model(model, tmp_path / "model.safetensors", **about)
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"record\.json cannot be read") as error:
        load_pretrained(folder=tmp_path)
    one_sentence(error)
