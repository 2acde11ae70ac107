"""A trained model adapted to other domains by Hugging Face's `Trainer`, all of its weights or few
(peft's LoRA), and what it forgets of its own text. Needs the extra `hub`."""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmlite.audit.text import SAMPLING
from llmlite.beyond.domains import DOMAINS, dataset_of, key_of
from llmlite.config import ModelConfig
from llmlite.data import SPLITS, Dataset
from llmlite.experiment import Experiment
from llmlite.files import tqdm
from llmlite.generate import prompt_ids
from llmlite.hub import to_gpt2
from llmlite.metrics import token_losses
from llmlite.model import GPT
from llmlite.run import Run, environment
from llmlite.tokenizer.bpe import imported
from llmlite.windows import TokenWindows

NEEDED = ("transformers", "peft", "accelerate")  # the last for the Trainer
# Which weights are trained → at which peak rate: of three or so that are a factor of 3 apart, the
# one with the fewest bits per byte of the validation part of `programming` after 24 steps (the
# model that ships, a CPU, one seed): 4.35 of lora2, 4.35 of lora8, 4.21, 4.07 of the head, 3.44.
# The next higher rate is worse by 1.04, 0.23, 1.30, 1.09 and 0.03.
WAYS = {"lora2": 1e-2, "lora8": 3e-3, "lora32": 3e-3, "head": 1e-2, "all": 1e-3}
ADAPTED = ["c_attn", "c_proj", "c_fc"]  # all four matrices of a block: c_proj is two of them
QUIET = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
PLAIN = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # each window is seen once
INDEX = ["domain", "way", "seed"]  # of a tuning


@dataclass(frozen=True)
class TuningConfig:
    """How much of it a profile runs (notebook 10)."""

    domain_bytes: int = 600_000  # of a domain's text, of which 80% is trained on
    tokens: int = 50_000  # of a tuning: less than a pass, so nothing is learnt by heart
    batch_tokens: int = 1_024  # of an optimiser step
    test_tokens: int = 25_000  # of each test part that is scored
    text: int = 60  # tokens of the continuation
    seeds: tuple[int, ...] = (1337, 1, 2)


QUICK = TuningConfig(200_000, 3_072, 512, 1_500, 16, seeds=(1337,))
TUNINGS = {"quick": QUICK, "small": TuningConfig(), "full": TuningConfig()}


def prepared(model: GPT, way: str, seed: int):
    """(a GPT2LMHeadModel, what is to be trained of it: itself or what peft made of it) with only
    those weights free that `way` names."""
    hf, *_ = map(imported, NEEDED)
    hf.set_seed(seed)
    gpt2 = to_gpt2(model, **PLAIN).requires_grad_(way == "all")
    if way.startswith("lora"):
        from peft import LoraConfig, get_peft_model

        rank = int(way.removeprefix("lora"))
        # Their Conv1D keeps (in, out). What is added is scaled by alpha / rank, 2 for each rank.
        how = {"target_modules": ADAPTED, "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
        return gpt2, get_peft_model(gpt2, LoraConfig(r=rank, lora_alpha=2 * rank, **how))
    if way == "head":
        gpt2.config.tie_word_embeddings = False
        gpt2.lm_head.weight = nn.Parameter(gpt2.lm_head.weight.detach().clone())
    return gpt2, gpt2


def fit(model, windows: TokenWindows, batch_size: int, rate: float, seed: int) -> dict:
    """One pass over the windows; how long it took."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    def loss(outputs, targets, **_) -> Tensor:  # they are the next tokens already
        return F.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten())

    how = {"learning_rate": rate, "lr_scheduler_type": "cosine", "num_train_epochs": 1}
    how |= {"warmup_steps": len(windows) // batch_size // 10, "optim": "adamw_torch", "seed": seed}
    how |= {"per_device_train_batch_size": batch_size, "dataloader_pin_memory": False}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            TrainingArguments(scratch, use_cpu=model.device.type == "cpu", **how, **QUIET),
            train_dataset=windows,
            data_collator=lambda batch: dict(zip(("input_ids", "labels"), batch, strict=True)),
            compute_loss_func=loss,
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
    return {"seconds": time.perf_counter() - began, "steps": trainer.state.global_step}


def as_gpt(gpt2, config: ModelConfig) -> SimpleNamespace:
    """A GPT2LMHeadModel with what scores ask of a GPT, so that both meet the same windows."""

    def hidden(ids: Tensor, head_mask=None) -> tuple[Tensor, None]:
        return gpt2.transformer(ids, use_cache=False).last_hidden_state, None

    how = {"config": config, "device": gpt2.device, "train": gpt2.train, "eval": gpt2.eval}
    # By whose weight logits are made; only the head's is not the embedding's.
    return SimpleNamespace(hidden=hidden, token_embedding=gpt2.lm_head, training=False, **how)


def pieces(model, ids: Tensor, tokenizer) -> np.ndarray:
    """(bits, bytes, tokens) of each window of a text, side by side: (windows, 3)."""
    bits = token_losses(model, ids).double().numpy() / math.log(2)
    length = np.array([len(token) for token in tokenizer.token_bytes])
    length[tokenizer.eot_id] = 0  # stands between articles, and for no byte of them
    starts = np.arange(0, len(bits), model.config.block_size)
    columns = bits, length[ids[1:]], np.ones_like(bits)
    return np.stack([np.add.reduceat(column, starts) for column in columns], axis=1)


def tuned(
    model: GPT, dataset: Dataset, domain: str, way: str, seed: int, config: TuningConfig
) -> dict:
    """One tuning (`way` "untuned": none), of which an adapter is kept: what it took; by `pieces`,
    how well the domain's test part is predicted then, and the model's own; and a continuation of
    the former's beginning, with the same random numbers each time."""
    size, rate, tokenizer = model.config.block_size, WAYS.get(way), dataset.tokenizer
    text = dataset_of(domain, dataset, config.domain_bytes)
    gpt2, trained = prepared(model, way, seed)
    found = {"trained": sum(p.numel() for p in trained.parameters() if p.requires_grad)}
    if rate:
        windows = TokenWindows(text.ids["train"], size)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
        windows.only = order[: config.tokens // size]
        found |= fit(trained, windows, max(1, config.batch_tokens // size), rate, seed)
        found |= {"tokens": len(windows) * size, "learning_rate": rate}
    if trained is not gpt2:
        trained.save_pretrained(adapter(dataset, domain, way, seed))
    for part, ids in (("domain", text.ids["test"]), ("own", dataset.ids["test"])):
        rows = pieces(as_gpt(gpt2, model.config), ids[: config.test_tokens], tokenizer)
        found[part] = rows.round(3).tolist()
    prompt = prompt_ids(tokenizer, " ".join(text.text("test").split()[:8]))[:, : size // 2]
    prompt = prompt.to(gpt2.device)
    how = {"attention_mask": torch.ones_like(prompt), "pad_token_id": tokenizer.eot_id}
    how |= {"max_new_tokens": min(config.text, size // 2), "do_sample": True, **SAMPLING}
    imported("transformers").set_seed(0)
    drawn = gpt2.generate(prompt, **how)
    whole = "".join(map(text.text, SPLITS)).encode()
    return found | {
        "text": tokenizer.decode(drawn[0]).strip(),
        "about": DOMAINS.get(domain, domain),
        "sha256": hashlib.sha256(whole).hexdigest(),
        "environment": environment(model.device) | {name: version(name) for name in NEEDED},
    }


def adapter(dataset: Dataset, domain: str, way: str, seed: int) -> Path:
    return dataset.folder / "adapters" / f"{key_of(domain)}-{way}-{seed}"


def merged(experiment: Experiment, domain: str, way: str, seed: int):
    """The model with an adapter's products added to its weights, a GPT2LMHeadModel; tuned once more
    where the adapter is not kept."""
    peft, model, dataset = imported("peft"), experiment.model, experiment.dataset
    if not (kept := adapter(dataset, domain, way, seed)).exists():
        tuned(model, dataset, domain, way, seed, TUNINGS.get(experiment.profile.name, QUICK))
    return peft.PeftModel.from_pretrained(to_gpt2(model, **PLAIN), kept).merge_and_unload()


def measures(config: TuningConfig, domains: Iterable[str] = DOMAINS) -> dict[str, Callable]:
    """All that is measured of a model: each domain as it is, and after each tuning."""
    untuned = product(domains, ["untuned"], config.seeds[:1])
    made = {}
    for seed in config.seeds:
        untuned = [*untuned, *product(domains, WAYS, [seed])]
    for domain, way, seed in untuned:
        how = {"domain": domain, "way": way, "seed": seed, "config": config}
        made[f"tuned-{key_of(domain)}-{way}-{seed}"] = partial(tuned, **how)
    return made


def tuning_run(experiment: Experiment) -> list[Run]:
    """The trained model with these measures, for a plan; none where it is not known yet, where the
    profile says nothing of it, or without the extra."""
    config = TUNINGS.get(experiment.profile.name)
    if not (config and experiment.known_configuration and all(map(find_spec, NEEDED))):
        return []
    return [replace(experiment.retraining(), name="tuned", measures=measures(config))]


def results(experiment: Experiment, domains: Iterable[str] = DOMAINS) -> pd.DataFrame:
    """What `tuned` gives, a row a tuning, `own` as "own windows"; and the bits per byte of both
    texts: `after` of the domain's, `own`."""
    made, rows = measures(TUNINGS.get(experiment.profile.name, QUICK), domains), {}
    for name, measure in tqdm(made.items(), "Tunings", disable=not experiment.progress):
        found = experiment.measure(name, measure)
        (after, n), (own, n_own) = (np.sum(found[p], axis=0)[:2] for p in ("domain", "own"))
        index = tuple(measure.keywords[key] for key in INDEX)
        rows[index] = found | {"own windows": found["own"], "own": own / n_own, "after": after / n}
    return pd.DataFrame.from_dict(rows, "index").rename_axis(INDEX)
