"""To Hugging Face `transformers` and back, by its own classes: the same ids, the same logits. It is
optional (the extra `hub`) and is imported where it is needed. A folder that others have made is
data, never code: of it only JSON and safetensors are read."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open

from llmlite import files
from llmlite.config import ModelConfig
from llmlite.files import CheckpointError, LLMLiteError, one_line, read_json, write_json
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
MASKS = (".attn.bias", ".attn.masked_bias")  # which older versions kept
PLAIN = ("ByteLevel", "TemplateProcessing")  # parts of a tokenizer.json without a program


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
    gpt2.transformer.load_state_dict(weights)  # strict: nothing missing, nothing left over
    return gpt2.eval().to(model.device)


def export_folder(model: GPT, tokenizer: BPETokenizer, to: str | Path, description: str) -> None:
    """Write a folder for transformers' Auto classes; `description`: where the model is from, for
    its config.json."""
    save_gpt2(to_gpt2(model, exported_by_llmlite=description), tokenizer, to)


def save_gpt2(gpt2, tokenizer: BPETokenizer, to: str | Path) -> None:
    """Write a GPT2LMHeadModel, adapted perhaps, with its tokenizer as such a folder."""
    gpt2.generation_config.pad_token_id = tokenizer.eot_id  # else each generation warns
    theirs = imported("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.to_tokenizers(),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=gpt2.config.n_positions,
        clean_up_tokenization_spaces=False,  # older versions take blanks away
    )
    imported("transformers").utils.logging.disable_progress_bar()  # of a moment
    with _filling(Path(to)):
        gpt2.save_pretrained(to)
        theirs.save_pretrained(to)


def import_folder(folder: str | Path, to: str | Path) -> Pretrained:
    """Bring a GPT-2 that transformers has saved in `folder` into `to`, and load it from there.
    Raises CheckpointError for one that would compute something else here."""
    folder, to = Path(folder), Path(to)
    check_target(to)
    try:
        model, tokenizer = _model_in(folder), _tokenizer_in(folder / "tokenizer.json")
        if (size := model.config.vocab_size) != (n := tokenizer.vocab_size):
            raise ValueError(
                f"its weights are for {size} tokens, its tokenizer has {n}; if the vocabulary was "
                f"padded, transformers' resize_token_embeddings({n}) takes the rest away"
            )
    except Exception as error:  # of whatever kind the libraries raise
        why = one_line(error)
        if not isinstance(error, OSError | LLMLiteError) and type(error) is not ValueError:
            why = f"a file of it is not as transformers writes it ({type(error).__name__}: {why})"
        raise CheckpointError(f"{folder} cannot be imported: {why}.") from None
    about = {"imported_from": str(folder), "tokenizer_fingerprint": tokenizer.fingerprint}
    with _filling(to):
        save_weights(model.config, model.state_dict(), to / MODEL, **about)
        tokenizer.save(to / TOKENIZER)
        write_json(to / RECORD, about)
    return load_pretrained(folder=to)


# What GPT-2's config.json may say that changes what it computes → what it computes here.
SAME = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "add_cross_attention": False}
SAME |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
SAME |= {"quantization_config": None}


def _model_in(folder: Path) -> GPT:
    given, path = read_json(folder / "config.json"), folder / "model.safetensors"
    if given["model_type"] != "gpt2" or (folder / "adapter_config.json").exists():
        raise ValueError("only a GPT-2 can be, and an adapter after merge_and_unload")
    shape = {ours: given[theirs] for ours, theirs in SHAPE.items()}
    config = ModelConfig(**shape, dropout=given.get("resid_pdrop", 0.1))
    same = SAME | {"n_inner": None if given.get("n_inner") is None else 4 * config.n_embd}
    if unlike := [name for name, ours in same.items() if given.get(name, ours) != ours]:
        raise ValueError(f"llmlite's GPT would give other logits, because of its {unlike[0]}")
    if not path.is_file():
        raise ValueError("it has no file model.safetensors")
    with safe_open(path, "pt") as file:
        names = [n for n in file.keys() if not n.endswith(MASKS)]  # noqa: SIM118
        theirs = {n.removeprefix("transformer."): n for n in names}
        sizes = [math.prod(file.get_slice(n).get_shape()) for n in names if n != "lm_head.weight"]
        if sum(sizes) != config.n_parameters:  # seen before memory is taken for either
            raise ValueError("its weights are not those that its config.json names")
        weights = {name: file.get_tensor(n) for name, n in theirs.items()}
    if not all(w.is_floating_point() and w.isfinite().all() for w in weights.values()):
        raise ValueError("some of its weights are no finite numbers")
    embedding = weights["wte.weight"]
    if not weights.get("lm_head.weight", embedding).equal(embedding):
        raise ValueError("its lm_head.weight is not its embedding, as it is in llmlite's GPT")
    model = GPT(config).eval()
    model.load_state_dict({n: _turned(n, weights[_their_name(n)]) for n in model.state_dict()})
    return model


def _tokenizer_in(path: Path) -> BPETokenizer:
    content = read_json(path)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        # Others hold somebody's regular expressions, which may never end.
        if (kind := (content[part] or {"type": "ByteLevel"})["type"]) not in PLAIN:
            raise ValueError(f"its {part} is {kind}, which would give other ids than ByteLevel")
    ids, merges = content["model"]["vocab"], content["model"]["merges"]
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    if special != {END_OF_TEXT: (last := len(ids | special) - 1)}:
        raise ValueError(
            f"llmlite's tokenizers have one special token, {END_OF_TEXT}, with the last number, "
            f"which is {last} here; this one has {special}"
        )
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    ours = BPETokenizer([(ids[left], ids[right]) for left, right in pairs])
    theirs = imported("tokenizers").Tokenizer.from_str(json.dumps(content))
    expected = ours.to_tokenizers()
    theirs.no_truncation()  # settings of the last call before it was saved
    theirs.no_padding()
    # A template, another split, a token more: whatever it is, it shows here.
    text = f" It's  e\u0301 ﬁ 日本\n\n12{END_OF_TEXT}".join([*ids, ""])
    same = expected.get_vocab() == theirs.get_vocab()
    if not same or expected.encode(text).ids != theirs.encode(text).ids:
        raise ValueError("llmlite's tokenizer would give other ids; its tokenizer.json is unusual")
    return ours


UNFINISHED = ".unfinished"  # in a folder while it is written to


@contextmanager
def _filling(folder: Path) -> Iterator[None]:
    """Write files to a folder that `check_target` takes; also once more, if that was broken off."""
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.unlinked(folder / UNFINISHED).touch()
    with files.room_for(folder):
        yield
    (folder / UNFINISHED).unlink()


def check_target(folder: str | Path) -> None:
    """LLMLiteError if `folder` holds files, except those that begin with a dot, such as .git, and
    what an export or an import that was broken off has left."""
    mark = (folder := Path(folder)) / UNFINISHED
    begun = mark.is_file() and not mark.is_symlink()  # which anybody may have put there
    if not begun and folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise LLMLiteError(f"{folder} holds files; name a new or empty folder.")


def _their_name(name: str) -> str:
    return ".".join(MODULES.get(part, part) for part in name.split("."))


def _turned(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Their Conv1D keeps (in, out) where nn.Linear keeps (out, in). `name` is ours."""
    return weight.T if name.startswith("blocks.") and weight.dim() == 2 else weight
