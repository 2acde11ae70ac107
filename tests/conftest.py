"""What several tests share: small models with weights worth looking at, and real WikiText-2."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bench_generate import moved_model
from tiny_plan import some_articles, two_seeds, whole  # noqa: F401, fixtures

from llmlite.cli import main
from llmlite.config import DataConfig, ModelConfig
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.model import GPT
from llmlite.sources import DATA_VARIABLE, KNOWN_SHA256

pytest.register_assert_rewrite("texts")  # in which are checks
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Whatever the machine has; in one thread: with small tensors a second one only waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmlite.parallel.local_device", lambda: "cpu")
        patch.setattr("llmlite.plan.runner.cores", lambda: 1)  # of workers
        patch.setenv("OMP_NUM_THREADS", "1")  # of other processes
        torch.set_num_threads(1)
        yield


@pytest.fixture(autouse=True)
def errors_are_one_sentence(monkeypatch) -> Iterator[None]:
    """Every error for people that a test meets, wherever it is raised in this process."""
    said = []

    def noted(self, message: str) -> None:
        said.append(message)
        Exception.__init__(self, message)

    monkeypatch.setattr(LLMLiteError, "__init__", noted)
    yield
    assert [text for text in said if not re.fullmatch(r".*\.", text)] == []


@pytest.fixture(scope="session")
def execution(tmp_path_factory) -> Callable[[], tuple[Path, Path]]:
    """`make full` on the sample with profile `quick`, and `make render` of its archive in a copy of
    what a clone shows, with this environment's programs. Called, it gives copy and archive.
    """
    out, clone = tmp_path_factory.mktemp("quick"), tmp_path_factory.mktemp("clone")
    for name in ("figures", "notebooks", "llmlite/pretrained"):
        shutil.copytree(REPOSITORY / name, clone / name)
    shutil.copy(REPOSITORY / "README.md", clone)
    (clone / "llmlite" / "experiment.py").touch()  # what tells a clone
    archive, make = out / "llmlite-quick.tar.gz", f"make -f '{REPOSITORY}/Makefile' INSTALLED="
    make += f" BIN='{Path(sys.executable).parent}' DATA=sample ARCHIVE='{archive}'"
    render = f"{make} render PROFILE=quick OUT=runs/llmlite-quick"
    full = f"{make} full PROFILE=quick DEVICE=cpu OUT='{out}'"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = ["sh", "-c", f"{full} && cd '{clone}' && {render}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return lambda: (clone, archive)


@pytest.fixture
def tiny_config() -> ModelConfig:
    """Small enough for milliseconds; the dropout shows who forgets to switch it off."""
    return ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16, dropout=0.2)


@pytest.fixture
def make_model() -> Callable[..., GPT]:
    """make_model(config, seed=0): with telling weights, in which a mistake would be seen."""
    return moved_model


@pytest.fixture
def tiny_model(tiny_config, make_model) -> GPT:
    return make_model(tiny_config)


@pytest.fixture
def make_ids() -> Callable[..., torch.Tensor]:
    """make_ids(*shape, vocab_size=61, seed=0): random token ids, int64."""

    def make(*shape: int, vocab_size: int = 61, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(vocab_size, shape, generator=generator)

    return make


@pytest.fixture(scope="session")
def wikitext() -> Path:
    """The folder of real WikiText-2: $LLMLITE_DATA, or the one beside the repository."""
    folder = Path(os.environ.get(DATA_VARIABLE) or REPOSITORY.parent / "shared/data/wikitext-2")
    for name in ("wiki.test.tokens", "wiki.test.raw"):
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == KNOWN_SHA256[name]:
            return folder
    pytest.skip(f"no WikiText-2 in {folder}; name its folder in ${DATA_VARIABLE}")


@pytest.fixture(scope="session")
def wikitext_corpus(wikitext, tmp_path_factory) -> Dataset:
    """Real WikiText-2 with its official splits."""
    folder = tmp_path_factory.mktemp("wikitext")
    return Dataset(DataConfig(source=str(wikitext)), folder, progress=False)


def bytes_of(folder: Path, train: str, test: str) -> Dataset:
    """A dataset whose tokens are bytes, and <|endoftext|>."""
    for split, text in (("train", train), ("valid", " the mat\n"), ("test", test)):
        (folder / f"wiki.{split}.raw").write_text(text, "utf-8")
    return Dataset(DataConfig(str(folder), vocab_size=257), folder, progress=False)


@pytest.fixture(scope="session")
def articles(some_articles, tmp_path_factory) -> Dataset:  # noqa: F811
    """The first articles of the bundled sample, in 300 tokens."""
    config = DataConfig(str(some_articles), vocab_size=300)
    return Dataset(config, tmp_path_factory.mktemp("articles"), progress=False)


@pytest.fixture
def llmlite(capsys):
    """llmlite(*words): what it prints, or with code=2 the one line that says why not."""

    def llmlite(*words, code=0):
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        if not code:
            return out
        (line,) = [line for line in err.splitlines() if line.startswith("llmlite:")]
        assert line.endswith(".")
        assert "Traceback" not in err
        return line

    return llmlite
