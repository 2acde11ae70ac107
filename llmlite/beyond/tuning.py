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
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from llmlite.audit.text import SAMPLING
from llmlite.beyond import domains
from llmlite.beyond.domains import DOMAINS
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

# Which weights are trained → at which peak rate.
WAYS = {"lora2": 1e-2, "lora8": 1e-2, "lora32": 1e-2, "head": 1e-3, "all": 1e-3}
NEEDED = ("transformers", "peft", "accelerate")  # the last for the Trainer
ADAPTED = ["c_attn", "c_proj", "c_fc"]  # all four matrices of a block: c_proj is two of them
DROPPED = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


@dataclass(frozen=True)
class TuningConfig:
    """How much of it a profile runs (notebook 10)."""

    domain_bytes: int = 600_000  # of a domain's text, of which 80% is trained on
    tokens: int = 50_000  # of a tuning: less than a pass, so nothing is learnt by heart
    batch_tokens: int = 1_024  # of an optimiser step
    test_tokens: int = 25_000  # of each test part that is scored
    text: int = 60  # tokens of the continuation
    seeds: tuple[int, ...] = (1337, 1, 2)


TUNINGS = {"small": TuningConfig(), "full": TuningConfig()}
TUNINGS["quick"] = TuningConfig(60_000, 4_096, 512, 2_000, 20, seeds=(1337,))
TUNINGS["own"] = TUNINGS["quick"]


class AsGPT:
    """A GPT2LMHeadModel with what scores and sampling ask of a GPT: so that they take the same
    windows, and draw by the same random numbers. config: the GPT's."""

    def __init__(self, gpt2, config):
        self.gpt2, self.config, self.device = gpt2, config, gpt2.device
        self.token_embedding = gpt2.lm_head  # whose weight the logits are made with
        self.training, self.train, self.eval = gpt2.training, gpt2.train, gpt2.eval

    def hidden(self, ids: Tensor, head_mask=None) -> tuple[Tensor, None]:
        return self.gpt2.transformer(ids, use_cache=False).last_hidden_state, None

    def __call__(self, ids: Tensor, head_mask=None):
        return self.gpt2(ids, use_cache=False)

    def check_mask(self, head_mask) -> None:
        pass  # there is none


def with_trained(model: GPT, way: str, seed: int):
    """(a GPT2LMHeadModel with only those weights to train that `way` says, what peft made of it or
    itself). Without dropout: each window is seen once."""
    hf, *_ = map(imported, NEEDED)
    hf.set_seed(seed)
    gpt2 = to_gpt2(model, **dict.fromkeys(DROPPED, 0.0))
    if way.startswith("lora"):
        from peft import LoraConfig, get_peft_model

        rank = int(way.removeprefix("lora"))
        # Their Conv1D keeps (in, out). An alpha of twice the rank scales the product by 2.
        how = {"target_modules": ADAPTED, "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
        return gpt2, get_peft_model(gpt2, LoraConfig(r=rank, lora_alpha=2 * rank, **how))
    if way == "head":
        gpt2.requires_grad_(False)
        gpt2.config.tie_word_embeddings = False
        gpt2.lm_head.weight = Parameter(gpt2.lm_head.weight.detach().clone())
    return gpt2, gpt2


def fit(model, windows: TokenWindows, batch_size: int, rate: float, seed: int) -> dict:
    """Train in one pass over the windows; how long it took."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    def loss(outputs, targets, **_):  # which are the next tokens already
        return F.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten())

    steps = -(-len(windows) // batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        how = TrainingArguments(
            scratch,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            optim="adamw_torch",
            seed=seed,
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            how,
            train_dataset=windows,
            data_collator=lambda batch: dict(zip(("input_ids", "labels"), batch, strict=True)),
            compute_loss_func=loss,
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
    return {"seconds": time.perf_counter() - began, "steps": trainer.state.global_step}


def pieces(model, ids: Tensor, tokenizer) -> np.ndarray:
    """(bits, bytes) of each window of a text, side by side: (windows, 2)."""
    bits = token_losses(model, ids).double().numpy() / math.log(2)
    length = np.array([len(token) for token in tokenizer.token_bytes])
    length[tokenizer.eot_id] = 0  # stands between articles, and for no byte of them
    starts = np.arange(0, len(bits), model.config.block_size)
    return np.stack([np.add.reduceat(x, starts) for x in (bits, length[ids[1:]])], axis=1)


def drawn(model, tokenizer, domain: str, config: TuningConfig) -> str:
    """The continuation of the domain's prompt; the same random numbers for each model."""
    how = SAMPLING | {"seed": 0, "fast": False}
    return complete(model, tokenizer, domains.about(domain)[1], config.text, **how)[0]


def untuned(model: GPT, dataset: Dataset, domain: str, config: TuningConfig) -> dict:
    """How the model predicts a domain, and its own text, as it is."""
    text = domains.dataset_of(domain, dataset, config.domain_bytes)
    return _scored(model, dataset, text, domain, config)


def _scored(model, dataset: Dataset, text: Dataset, domain: str, config: TuningConfig) -> dict:
    parts = {"domain": text.ids["test"], "own": dataset.ids["test"]}
    tokenizer = dataset.tokenizer
    scores = {n: pieces(model, ids[: config.test_tokens], tokenizer) for n, ids in parts.items()}
    return {
        **{name: scored.round(4).tolist() for name, scored in scores.items()},
        "text": drawn(model, tokenizer, domain, config),
        "about": domains.about(domain)[0],
        "sha256": hashlib.sha256("".join(map(text.text, SPLITS)).encode()).hexdigest(),
    }


def adapters(dataset: Dataset) -> Path:
    return dataset.folder / "adapters"


def tuned(
    model: GPT, dataset: Dataset, domain: str, way: str, seed: int, config: TuningConfig
) -> dict:
    """`untuned` after training; what was trained, and for how long. An adapter is kept below the
    dataset's folder."""
    text, size = domains.dataset_of(domain, dataset, config.domain_bytes), model.config.block_size
    windows = TokenWindows(text.ids["train"], size)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    windows.only = order[: config.tokens // size]
    gpt2, trained = with_trained(model, way, seed)
    rate, batch_size = WAYS[way], max(1, config.batch_tokens // size)
    took = fit(trained, windows, batch_size, rate, seed)
    if trained is not gpt2:
        trained.save_pretrained(adapters(dataset) / name_of(domain, way, seed))
    return {
        "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        **took,
        "tokens": len(windows) * size,
        "learning_rate": rate,
        **_scored(AsGPT(gpt2, model.config), dataset, text, domain, config),
        "environment": environment(model.device),
        "versions": {name: version(name) for name in NEEDED},
    }


def name_of(domain: str, way: str, seed: int) -> str:
    return f"tuned-{domains.key_of(domain)}-{way}-{seed}"


def measures(config: TuningConfig, names: Iterable[str] = DOMAINS) -> dict[str, Callable]:
    """All that is measured of a model: each domain as it is, and after each tuning."""
    made = {f"domain-{domains.key_of(n)}": partial(untuned, domain=n, config=config) for n in names}
    for seed, domain, way in product(config.seeds, names, WAYS):
        how = {"domain": domain, "way": way, "seed": seed, "config": config}
        made[name_of(domain, way, seed)] = partial(tuned, **how)
    return made


def tuning_run(experiment: Experiment) -> list[Run]:
    """The trained model with these measures, for a plan; nothing where it is not known yet, where
    the profile says nothing of it, or without the extra."""
    config = TUNINGS.get(experiment.profile.name)
    if not (config and experiment.known_configuration and all(map(find_spec, NEEDED))):
        return []
    return [replace(experiment.retraining(), name="tuned", measures=measures(config))]


# Written before any of these runs: a question, what was expected, and that as an inequality: for
# each domain, over the seeds, `factor` times a column of the table for one way is below that of the
# other. The opposite, with its whole interval, refutes it. (Known by then: how the model predicts
# the domains' validation parts untuned, and that rank 8 at a rate of 3e-3 helps with one of them.)
PREDICTIONS = (
    ("Which way learns a domain best?", "all weights end below rank 32", "after", 1, "all", "lora32"),
    ("Does the rank matter?", "rank 32 ends below rank 2", "after", 1, "lora32", "lora2"),
    (
        "Is the last layer enough?",
        "the head ends above rank 2, with fifty times as many parameters",
        "after", 1, "lora2", "head",
    ),
    ("Who forgets most?", "all weights forget more than rank 32", "forgotten", 1, "lora32", "all"),
    ("Does a low rank protect?", "rank 2 forgets less than rank 32", "forgotten", 1, "lora2", "lora32"),
    (
        "Do few parameters save time?",
        "hardly: rank 8 takes over 0.7 of the time of all weights",
        "seconds", 0.7, "all", "lora8",
    ),
)  # fmt: skip
