"""To Hugging Face `transformers` and back, by its own classes: the same ids, the same logits. It is
optional (the extra `hub`) and is imported where it is needed. A folder that others have made is
data, never code: of it only JSON and safetensors are read."""

import json
from pathlib import Path

import torch

from llmlite.config import ModelConfig
from llmlite.files import CheckpointError, LLMLiteError, write_json
from llmlite.model import GPT
from llmlite.pretrained import MODEL, TOKENIZER, Pretrained, load_pretrained
from llmlite.run import RECORD, save_weights
from llmlite.tokenizer import END_OF_TEXT, BPETokenizer
from llmlite.tokenizer.bpe import imported

# Our names in GPT2LMHeadModel's words: of modules, and in its configuration.
MODULES = {"token_embedding": "wte", "position_embedding": "wpe", "blocks": "h", "norm": "ln_f"}
MODULES |= {"norm1": "ln_1", "norm2": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
MODULES |= {"attention": "attn", "qkv": "c_attn", "proj": "c_proj"}
SHAPE = {name: name for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
SHAPE |= {"block_size": "n_positions"}


def to_gpt2(model: GPT, **options):
    """A copy of `model` as a GPT2LMHeadModel, for evaluation; `options` of its GPT2Config."""
    hf, shape = imported("transformers"), model.config
    if not shape.causal:
        raise LLMLiteError("GPT-2 has a causal mask, this model has none; it cannot be exported.")
    given = {theirs: getattr(shape, ours) for ours, theirs in SHAPE.items()}
    given |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    given |= dict.fromkeys(("bos_token_id", "eos_token_id"), shape.vocab_size - 1)
    gpt2 = hf.GPT2LMHeadModel(hf.GPT2Config(**given | options))
    weights = {_their_name(n): _turned(n, w) for n, w in model.state_dict().items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    gpt2.load_state_dict(weights)  # strict: nothing missing, nothing left over
    return gpt2.eval().to(model.device)


def export_folder(model: GPT, tokenizer: BPETokenizer, to: str | Path, description: str) -> None:
    """Write a folder for transformers' Auto classes; `description`: where the model is from, for
    its config.json."""
    check_target(to)
    gpt2 = to_gpt2(model, exported_by_llmlite=description)
    gpt2.generation_config.pad_token_id = tokenizer.eot_id  # else each generation warns
    theirs = imported("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.to_tokenizers(),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=model.config.block_size,
        clean_up_tokenization_spaces=False,  # older versions take blanks away
    )
    gpt2.save_pretrained(to)
    theirs.save_pretrained(to)


def import_folder(folder: str | Path, to: str | Path) -> Pretrained:
    """Bring a GPT-2 that transformers has saved in `folder` into `to`, and load it from there.
    Raises CheckpointError for one that would compute something else here."""
    folder, to = Path(folder), Path(to)
    check_target(to)
    try:
        model, tokenizer = _model_in(folder), _tokenizer_in(folder / "tokenizer.json")
        if (size := model.config.vocab_size) != tokenizer.vocab_size:
            raise ValueError(f"its vocabulary is {size}, its tokenizer's {tokenizer.vocab_size}")
    except Exception as error:  # of whatever kind the libraries raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(f"{folder} cannot be imported: {reason}.") from None
    about = {"imported_from": str(folder), "tokenizer_fingerprint": tokenizer.fingerprint}
    save_weights(model.config, model.state_dict(), to / MODEL, **about)
    tokenizer.save(to / TOKENIZER)
    write_json(to / RECORD, about)
    return load_pretrained(folder=to)


def _model_in(folder: Path) -> GPT:
    given = json.loads((folder / "config.json").read_text("utf-8"))
    if given["model_type"] != "gpt2" or (folder / "adapter_config.json").exists():
        raise ValueError("only a GPT-2 can be, and an adapter after merge_and_unload")
    gpt2, info = imported("transformers").GPT2LMHeadModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if any(info.values()):  # else transformers would make missing weights up
        raise ValueError("its weights are not those that its config.json names")
    shape = {ours: getattr(gpt2.config, theirs) for ours, theirs in SHAPE.items()}
    model = GPT(ModelConfig(**shape, dropout=gpt2.config.resid_pdrop)).eval()
    weights = gpt2.float().eval().state_dict()
    model.load_state_dict({n: _turned(n, weights[_their_name(n)]) for n in model.state_dict()})
    # Whatever else its config.json says, another activation or an lm_head of its own, shows here.
    ids = torch.arange(shape["block_size"]).remainder(shape["vocab_size"]).unsqueeze(0)
    with torch.inference_mode():
        if not torch.allclose(model(ids).logits, gpt2(ids).logits, rtol=1e-4, atol=1e-4):
            raise ValueError("llmlite's GPT would give other logits; its config.json is unusual")
    return model


def _tokenizer_in(path: Path) -> BPETokenizer:
    theirs = imported("tokenizers").Tokenizer.from_file(str(path))
    theirs.no_truncation()  # settings of the last call before it was saved
    theirs.no_padding()
    content = json.loads(theirs.to_str())
    ids = content["model"]["vocab"]
    ours = BPETokenizer([(ids[left], ids[right]) for left, right in content["model"]["merges"]])
    expected = ours.to_tokenizers()
    # A normalizer, a template, another split, a token more: whatever it is, it shows here.
    text = f" It's  e\u0301 ﬁ 日本\n\n12{END_OF_TEXT}".join([*ids, ""])
    same = expected.get_vocab() == theirs.get_vocab()
    if not same or expected.encode(text).ids != theirs.encode(text).ids:
        raise ValueError("llmlite's tokenizer would give other ids; its tokenizer.json is unusual")
    return ours


def check_target(folder: str | Path) -> None:
    """LLMLiteError if `folder` holds files, except those that begin with a dot, such as .git."""
    folder = Path(folder)
    if folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise LLMLiteError(f"{folder} holds files; name a new or empty folder.")


def _their_name(name: str) -> str:
    return ".".join(["transformer", *(MODULES.get(part, part) for part in name.split("."))])


def _turned(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Their Conv1D keeps (in, out) where nn.Linear keeps (out, in). `name` is ours."""
    return weight.T if name.startswith("blocks.") and weight.dim() == 2 else weight
