"""Our model as a folder that Hugging Face `transformers` loads (GPT2LMHeadModel), and the way back.

Such a folder holds
    config.json             the shape, in GPT-2's words
    model.safetensors       the weights under GPT-2's names
    tokenizer.json          the tokenizer; tokenizer_config.json says what is special in it
    generation_config.json  the id that ends a text
    README.md               what the model is, and three lines of use

Needs nothing of `transformers`, neither to write nor to read.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from llmlite import __version__
from llmlite.checkpoint import environment, save_weights
from llmlite.config import ModelConfig
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.files import replacing, room_for, write_json
from llmlite.generate import PARAGRAPH
from llmlite.gpt2 import from_gpt2, gpt2_config, shape_of, to_gpt2
from llmlite.model import GPT
from llmlite.paper import GENERATION_PROMPT
from llmlite.pretrained import MODEL, RECORD, TOKENIZER, Pretrained, load_pretrained
from llmlite.tokenizer import END_OF_TEXT, BPETokenizer

CONFIG, CARD = "config.json", "README.md"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
EXPORTED = (CONFIG, MODEL, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, CARD)
IMPORTED = (MODEL, TOKENIZER, RECORD)
# In the header of model.safetensors. Not in config.json: transformers copies that into the folder
# of a model that was trained on, which must not be taken for ours and replaced.
EXPORT_MARK, IMPORT_MARK = "exported_by", "imported_from"

_README = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, causal-lm, llmlite]
---

# A miniature GPT

GPT-2's architecture: {n_layer} layers, {n_head} heads, width {n_embd}, context {block_size} tokens,
tied embeddings, {parameters:,} parameters; byte-level byte pairs, {vocab_size:,} tokens.
Exported by llmlite {version} from: {about}

```python
from transformers import pipeline
generate = pipeline("text-generation", {quoted_name})
print(generate({prompt}, max_new_tokens={new})[0]["generated_text"])
```

- Prompt and new tokens together are at most {block_size} tokens.
- Where a batch must be padded, set `tokenizer.pad_token = tokenizer.eos_token`, as for GPT-2.
- It continues text in the manner of its corpus, in which a paragraph starts with a blank line and
  a space. It follows no instructions and has little knowledge to speak of.
- `llmlite import {name} --to my-model` is the way back, also after training it further.
"""


def export_folder(model: GPT, tokenizer: BPETokenizer, folder: str | Path, about: str) -> None:
    """Write `model` as a folder for `transformers`: the same ids, the same logits.

    about: where the model is from, for its README. Raises LLMLiteError for a model that
    GPT2LMHeadModel cannot be, and if `folder` holds anything but an earlier export.
    """
    folder = Path(folder).absolute()
    check_export_target(folder)
    _check_vocabulary(model.config, tokenizer, "The model")
    end = tokenizer.eot_id
    config = gpt2_config(model.config, end)
    weights = {k: w.detach().cpu().contiguous() for k, w in to_gpt2(model.state_dict()).items()}
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": model.config.block_size,
        "clean_up_tokenization_spaces": False,
    }
    with _filling(folder) as aside:
        write_json(aside / CONFIG, config)
        with replacing(aside / MODEL) as path:
            path.write_bytes(save(weights, {"format": "pt", EXPORT_MARK: f"llmlite {__version__}"}))
        tokenizer.save_tokenizer_json(aside / TOKENIZER)
        write_json(aside / TOKENIZER_CONFIG, special)
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
        write_json(aside / GENERATION_CONFIG, ids)
        with replacing(aside / CARD) as path:
            path.write_text(_readme(model, tokenizer, folder.name, about), encoding="utf-8")


def _readme(model: GPT, tokenizer: BPETokenizer, name: str, about: str) -> str:
    block_size = model.config.block_size
    ids = tokenizer.encode(PARAGRAPH + GENERATION_PROMPT)[: math.ceil(block_size / 2)]
    return _README.format(
        **asdict(model.config),
        parameters=model.n_parameters(),
        version=__version__,
        about=about,
        name=name,
        quoted_name=json.dumps(name),
        prompt=json.dumps(tokenizer.decode(ids)),
        new=min(60, block_size - len(ids)),
    )


def import_folder(folder: str | Path, to: str | Path) -> Pretrained:
    """Bring a GPT-2 that `transformers` has saved in `folder` into `to`, and load it from there.

    `to` gets the files that `load_pretrained` reads; its record says where they came from. Raises
    CheckpointError or TokenizerError for what llmlite's model or tokenizer cannot be, and
    LLMLiteError if `to` holds anything but an earlier import.
    """
    folder, to = Path(folder), Path(to)
    _check_target(to, IMPORTED, IMPORT_MARK)
    path = _file_of_weights(folder)
    shape = _read_shape(folder / CONFIG)
    try:
        weights = from_gpt2(load_file(path), shape, str(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not a model: {error}.") from None
    if not (folder / TOKENIZER).exists():
        raise CheckpointError(
            f"{folder} has no {TOKENIZER}; save the tokenizer there as well (save_pretrained)."
        )
    tokenizer = BPETokenizer.from_tokenizer_json(folder / TOKENIZER)
    _check_vocabulary(shape, tokenizer, f"The model in {folder}")
    about = {IMPORT_MARK: str(folder), "tokenizer_fingerprint": tokenizer.fingerprint}
    record = {
        **about,
        "identity": {"model": asdict(shape)},
        "parameters": sum(weight.numel() for weight in weights.values()),
        "imported_in": environment("cpu"),
    }
    with _filling(to) as aside:
        save_weights(shape, weights, aside / MODEL, **about)
        tokenizer.save(aside / TOKENIZER)
        write_json(aside / RECORD, record)
    return load_pretrained(folder=to)


def _file_of_weights(folder: Path) -> Path:
    """The one file of weights in `folder`, or CheckpointError that says what is there instead."""
    path = folder / MODEL
    if path.is_file():
        return path
    if (folder / f"{MODEL}.index.json").exists():
        raise CheckpointError(
            f"The weights in {folder} are in several files; save the model with a larger "
            "max_shard_size."
        )
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds an adapter without its model; save what merge_and_unload gives."
        )
    raise CheckpointError(
        f"There is no {MODEL} in {folder}; name a folder that save_pretrained has written."
    )


def _read_shape(path: Path) -> ModelConfig:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a configuration: a JSON object.")
    return shape_of(config, str(path))


def _check_vocabulary(shape: ModelConfig, tokenizer: BPETokenizer, who: str) -> None:
    if shape.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{who} has a vocabulary of {shape.vocab_size}, its tokenizer one of "
            f"{tokenizer.vocab_size}; use two that belong together."
        )


def check_export_target(folder: str | Path) -> None:
    """LLMLiteError if `folder` holds anything but an earlier export."""
    _check_target(Path(folder), EXPORTED, EXPORT_MARK)


def _check_target(folder: Path, files: Sequence[str], mark: str) -> None:
    """What begins with a dot, such as .git, may be there: it is never replaced."""
    there = {p.name for p in folder.iterdir() if p.name[0] != "."} if folder.exists() else set()
    if there and not (there <= set(files) and mark in _header(folder / MODEL)):
        raise LLMLiteError(
            f"{folder} holds files that this command has not left there; name a new or empty "
            "folder."
        )


def _header(path: Path) -> dict[str, str]:
    """What stands in the header of a file of weights; nothing if it is none."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


@contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to; its files go into `folder` if the block ends without an error."""
    with room_for(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(prefix=".", dir=folder) as aside:
                yield Path(aside)
                for path in Path(aside).iterdir():
                    os.replace(path, folder / path.name)
        except BaseException:
            if made:
                folder.rmdir()
            raise
