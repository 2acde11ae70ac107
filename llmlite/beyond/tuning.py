"""A trained model adapted to other domains by Hugging Face's `Trainer`, all of its weights or few
(peft's LoRA), and what it forgets of its own. Needs the extra `hub`."""

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

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmlite.audit.text import SAMPLING
from llmlite.beyond.domains import DOMAINS, dataset_of, key_of
from llmlite.data import SPLITS, Dataset
from llmlite.experiment import Experiment
from llmlite.files import tqdm
from llmlite.generate import complete
from llmlite.hub import to_gpt2
from llmlite.metrics import token_losses
from llmlite.model import GPT
from llmlite.run import Run, environment
from llmlite.tokenizer.bpe import imported
from llmlite.windows import TokenWindows

NEEDED = ("transformers", "peft", "accelerate")  # the last for the Trainer
# Which weights are trained → at which peak rate.
WAYS = {"lora2": 1e-2, "lora8": 1e-2, "lora32": 1e-2, "head": 1e-3, "all": 1e-3}
ADAPTED = ["c_attn", "c_proj", "c_fc"]  # all four matrices of a block: c_proj is two of them
QUIET = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}


@dataclass(frozen=True)
class TuningConfig:
    """How much of it a profile runs (notebook 10)."""

    domain_bytes: int = 600_000  # of a domain's text, of which 80% is trained on
    tokens: int = 50_000  # of a tuning: less than a pass, so nothing is learnt by heart
    batch_tokens: int = 1_024  # of an optimiser step
    test_tokens: int = 25_000  # of each test part that is scored
    text: int = 60  # tokens of the continuation
    seeds: tuple[int, ...] = (1337, 1, 2)


# 30 tunings are 1.5 million tokens to train on and as many to score.
QUICK = TuningConfig(200_000, 3_072, 512, 1_500, 16, seeds=(1337,))
TUNINGS = {"quick": QUICK, "small": TuningConfig(), "full": TuningConfig()}


class AsGPT:
    """A GPT2LMHeadModel with what scores and sampling ask of a GPT, so that they take the same
    windows and random numbers. config: the GPT's."""

    def __init__(self, gpt2, config):
        self.gpt2, self.config, self.device = gpt2, config, gpt2.device
        self.token_embedding = gpt2.lm_head  # whose weight the logits are made with
        self.training, self.train, self.eval = gpt2.training, gpt2.train, gpt2.eval

    def hidden(self, ids: Tensor, head_mask=None) -> tuple[Tensor, None]:
        return self.gpt2.transformer(ids, use_cache=False).last_hidden_state, None

    def __call__(self, ids: Tensor, head_mask=None):
        return self.gpt2(ids, use_cache=False)

    def check_mask(self, head_mask) -> None:
        """There is none."""


def prepared(model: GPT, way: str, seed: int):
    """(a GPT2LMHeadModel, what is to be trained of it: itself or what peft made of it) with only
    those weights free that `way` names. Without dropout: each window is seen once."""
    hf, *_ = map(imported, NEEDED)
    hf.set_seed(seed)
    gpt2 = to_gpt2(model, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if way.startswith("lora"):
        from peft import LoraConfig, get_peft_model

        rank = int(way.removeprefix("lora"))
        # Their Conv1D keeps (in, out). What is added is scaled by alpha / rank, 2 for each rank.
        how = {"target_modules": ADAPTED, "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
        return gpt2, get_peft_model(gpt2, LoraConfig(r=rank, lora_alpha=2 * rank, **how))
    if way == "head":
        gpt2.requires_grad_(False)
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


def pieces(model, ids: Tensor, tokenizer) -> np.ndarray:
    """(bits, bytes, tokens) of each window of a text, side by side, (windows, 3)."""
    bits = token_losses(model, ids).double().numpy() / math.log(2)
    length = np.array([len(token) for token in tokenizer.token_bytes])
    length[tokenizer.eot_id] = 0  # stands between articles, and for no byte of them
    starts, columns = np.arange(0, len(bits), model.config.block_size), (bits, length[ids[1:]])
    return np.stack([np.add.reduceat(x, starts) for x in (*columns, np.ones_like(bits))], axis=1)


def scored(model, dataset: Dataset, domain: str, config: TuningConfig) -> dict:
    """How a model predicts a domain and the text that it is from, by `pieces`, and what it makes of
    the beginning of the domain's test part, with the same random numbers each time."""
    text = dataset_of(domain, dataset, config.domain_bytes)
    found, tokenizer = {}, dataset.tokenizer
    for name, ids in (("domain", text.ids["test"]), ("own", dataset.ids["test"])):
        found[name] = pieces(model, ids[: config.test_tokens], tokenizer).round(3).tolist()
    prompt = " ".join(text.text("test").split()[:8])
    how = {"seed": 0, "fast": False, **SAMPLING}
    found["text"] = prompt + complete(model, tokenizer, prompt, config.text, **how)[0]
    sha256 = hashlib.sha256("".join(map(text.text, SPLITS)).encode()).hexdigest()
    return found | {"about": DOMAINS.get(domain, domain), "sha256": sha256}


def tuned(
    model: GPT, dataset: Dataset, domain: str, way: str, seed: int, config: TuningConfig
) -> dict:
    """`scored` after training; an adapter is kept, by `adapter`."""
    size, rate = model.config.block_size, WAYS[way]
    windows = TokenWindows(dataset_of(domain, dataset, config.domain_bytes).ids["train"], size)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    windows.only = order[: config.tokens // size]
    gpt2, trained = prepared(model, way, seed)
    took = fit(trained, windows, max(1, config.batch_tokens // size), rate, seed)
    if trained is not gpt2:
        trained.save_pretrained(adapter(dataset, domain, way, seed))
    return {
        "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "tokens": len(windows) * size,
        "learning_rate": rate,
        **took,
        **scored(AsGPT(gpt2, model.config), dataset, domain, config),
        "environment": environment(model.device) | {name: version(name) for name in NEEDED},
    }


def adapter(dataset: Dataset, domain: str, way: str, seed: int) -> Path:
    return dataset.folder / "adapters" / f"{key_of(domain)}-{way}-{seed}"


def merged(experiment: Experiment, domain: str, way: str, seed: int):
    """The model with an adapter's products added to its weights, a GPT2LMHeadModel; tuned once more
    where the adapter is not kept."""
    peft, model, dataset = imported("peft"), experiment.model, experiment.dataset
    if not (kept := adapter(dataset, domain, way, seed)).exists():
        tuned(model, dataset, domain, way, seed, config_of(experiment))
    return peft.PeftModel.from_pretrained(to_gpt2(model), kept).merge_and_unload()


def config_of(experiment: Experiment) -> TuningConfig:
    return TUNINGS.get(experiment.profile.name, QUICK)


def measures(config: TuningConfig, names: Iterable[str] = DOMAINS) -> dict[str, Callable]:
    """All that is measured of a model: each domain as it is, and after each tuning."""
    made = {f"domain-{key_of(n)}": partial(scored, domain=n, config=config) for n in names}
    for seed, domain, way in product(config.seeds, names, WAYS):
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


def results(experiment: Experiment, names: Iterable[str] = DOMAINS) -> tuple[dict, pd.DataFrame]:
    """(domain → `scored`, a row a tuning: the trained parameters, seconds, bits per byte of the
    domain's test part `before` and `after`, by how much those of the own text rose: `forgot`)."""
    config = config_of(experiment)
    made = measures(config, names).items()
    bar = tqdm(made, "Tunings", disable=not experiment.progress)
    found = {name: experiment.measure(name, measure) for name, measure in bar}
    untuned, rows = {name: found[f"domain-{key_of(name)}"] for name in names}, {}
    for domain, way, seed in product(names, WAYS, config.seeds):
        before, after = untuned[domain], found[f"tuned-{key_of(domain)}-{way}-{seed}"]
        numbers = {name: after[name] for name in ("trained", "tokens", "seconds", "text")}
        numbers |= {"before": per_byte(before["domain"]), "after": per_byte(after["domain"])}
        numbers["forgot"] = per_byte(after["own"]) - per_byte(before["own"])
        rows[domain, way, seed] = numbers
    table = pd.DataFrame.from_dict(rows, "index").rename_axis(["domain", "way", "seed"])
    table.attrs["environment"] = after["environment"]
    return untuned, table


def per_byte(scored: list) -> float:
    """Bits per byte of `pieces`."""
    bits, n_bytes, _ = np.sum(scored, axis=0)
    return bits / n_bytes
