"""Files that anybody may have made: whole ones, changed a little. Each reader gives a result or one
sentence, within 10 seconds and a gigabyte.

The same changes each time; FUZZ_EXAMPLES=5000 makes so many for each reader, others at each call.
"""

import hashlib
import io
import json
import os
import resource
import shutil
import signal
import tarfile
import zipfile
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import interrupt, trainer
from tiny_plan import open_plan

from llmlite.config import ModelConfig
from llmlite.data import Encoded
from llmlite.files import LLMLiteError
from llmlite.hub import export_folder, import_folder
from llmlite.model import GPT
from llmlite.plan.archive import MANIFEST, pack, unpack
from llmlite.run import load_model, read_measure, read_steps, runs_table
from llmlite.tokenizer import BPETokenizer

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
GIGABYTE, SECONDS = 1 << 30, 10
pytestmark = pytest.mark.slow

# Where, how much goes, what comes.
edit = st.tuples(st.integers(0, 1 << 30), st.integers(0, 64), st.binary(max_size=16))
edits = st.lists(edit, min_size=1, max_size=4)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    values | st.integers(-3, 300),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part),
    max_leaves=5,
)
paths = st.lists(st.integers(0, 1000), max_size=6)


def edited(content: bytes, edits) -> bytes:
    for at, gone, new in edits:
        at %= len(content) + 1
        content = content[:at] + new + content[at + gone :]
    return content


def with_part(value, path: list[int], new):
    """JSON with something else in the place to which `path` leads."""
    if isinstance(value, str) and value.startswith("{"):  # JSON in JSON: a configuration
        return json.dumps(with_part(json.loads(value), path, new))
    if not path or not value or not isinstance(value, dict | list):
        return new
    first, *rest = path
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[first % len(keys)]
    changed = value.copy()
    changed[key] = with_part(value[key], rest, new)
    return changed


class Content(bytes):
    def __repr__(self) -> str:  # in a failure's message; the file is in the test's folder
        return f"<{len(self)} bytes>"


@st.composite
def changed(draw, content: bytes) -> bytes:
    """In some of its bytes or, as often, in a part of what they stand for."""
    if draw(st.booleans()):
        return edited(content, draw(edits))
    if content.startswith((b"PK", b"\x1f\x8b")):  # a checkpoint is a zip
        return draw(changed_archive(content))
    if content.startswith(b"{"):  # JSON, or lines of it
        lines = content.splitlines() if content.count(b"\n{") else [content]
        number = draw(st.integers(0, len(lines) - 1))
        new = with_part(json.loads(lines[number]), draw(paths), draw(anything))
        lines[number] = json.dumps(new).encode()
        return b"\n".join(lines)
    length = int.from_bytes(content[:8], "little")  # safetensors
    header = draw(changed(content[8 : 8 + length]))
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@st.composite
def changed_archive(draw, content: bytes) -> bytes:
    """One of which a file was changed; its checksum, or what our manifest says of it, as well."""
    zipped, made = content.startswith(b"PK"), io.BytesIO()
    if zipped:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            files = {name: file.read(name) for name in file.namelist()}
    else:
        with tarfile.open(fileobj=io.BytesIO(content)) as file:
            files = {member.name: file.extractfile(member).read() for member in file}
    name = draw(st.sampled_from(sorted(files)))
    files[name] = draw(changed(files[name]))
    if MANIFEST in files and name != MANIFEST:
        about = json.loads(files[MANIFEST])
        about["files"][name] = hashlib.sha256(files[name]).hexdigest()
        files[MANIFEST] = json.dumps(about).encode()
    if zipped:
        with zipfile.ZipFile(made, "w") as file:
            for name, its in files.items():
                file.writestr(name, its)
    else:
        with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as file:
            for name, its in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(its)
                file.addfile(member, io.BytesIO(its))
    return made.getvalue()


@contextmanager
def limited():
    """TimeoutError after SECONDS, MemoryError for a gigabyte more than there is now."""

    def too_long(*_):
        raise TimeoutError(f"{SECONDS} seconds are over")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIGABYTE, most))
    handler = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


@pytest.fixture
def readers(two_seeds, some_articles, tmp_path) -> dict:
    """Name → a whole file, and what reads it in its folder."""
    experiment = open_plan(some_articles, two_seeds)
    run = experiment.retraining(1337)
    folder, record = experiment.folder(run), experiment.train(run)
    (tokens,) = two_seeds.glob("tokens-*")
    (tokenizer,) = two_seeds.glob("tokenizer-*.json")
    pack(experiment, [run], tmp_path / "a.tar.gz")
    begun, exported = tmp_path / "begun", tmp_path / "exported"
    interrupt(trainer(begun), 14)
    model = GPT(ModelConfig(299, 16, 1, 2, 8))
    export_folder(model, BPETokenizer.load(tokenizer).truncate(299), exported, "")

    def carry_on(path: Path) -> None:
        with redirect_stderr(io.StringIO()):
            trainer(path.parent).fit()

    def into(path: Path) -> None:
        import_folder(path.parent, path.parent / "to")

    return {
        "archive": (tmp_path / "a.tar.gz", lambda path: unpack(path, path.parent / "out", "tiny")),
        "record": (folder / "record.json", lambda path: runs_table(path.parent)),
        "measure": (
            folder / "test_score.json",
            lambda path: read_measure(path.parent, "test_score", record),
        ),
        "steps": (folder / "steps.jsonl", lambda path: read_steps(path.parent)),
        "weights": (folder / "best.safetensors", load_model),
        "tokens": (tokens / "valid.json", lambda path: Encoded.read(path.with_suffix(""), 300)),
        "tokenizer": (tokenizer, BPETokenizer.load),
        "checkpoint": (begun / "last.pt", carry_on),
        "import's weights": (exported / "model.safetensors", into),
        "import's config": (exported / "config.json", into),
        "import's tokenizer": (exported / "tokenizer.json", into),
    }


@pytest.mark.parametrize("name", [
    "archive", "record", "measure", "steps", "weights", "tokens", "tokenizer", "checkpoint",
    "import's weights", "import's config", "import's tokenizer",
])  # fmt: skip
def test_a_changed_file_gives_a_result_or_one_sentence(readers, name, tmp_path):
    path, read = readers[name]

    @settings(max_examples=EXAMPLES or 60, deadline=None, database=None, derandomize=not EXAMPLES)
    @given(changed(path.read_bytes()).map(Content))
    def check(content):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("*.lock", "out"))
        (folder / path.name).write_bytes(content)
        with limited(), suppress(LLMLiteError):  # that it is a sentence is seen in conftest.py
            read(folder / path.name)

    check()
