"""The whole plan of a profile so small that it takes seconds: worked through, killed, packed."""

import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import tempfile
import time
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from tiny_plan import SEEDS, content, files, open_plan

from llmlite.audit.heads import STUDIES
from llmlite.audit.runs import Audit
from llmlite.files import CheckpointError, DiskFullError, LLMLiteError, MissingRunError
from llmlite.plan import runner
from llmlite.plan.archive import MANIFEST, pack, stage, unpack
from llmlite.plan.runner import RESERVE, work_through
from llmlite.plan.whole import chosen, whole_plan
from llmlite.run import STEPS, WEIGHTS, read_record, read_steps

FEW = ("retrain", "search-revised", "unshifted")


def names(runs) -> list[str]:
    return [run.name for run in runs]


def test_each_run_of_a_plan_is_made_once_whoever_wants_it(whole):
    experiment, runs = whole.experiment, whole_plan(whole.experiment)
    before, one_each = files(experiment), names(chosen(runs))
    assert len(experiment.dataset.ids["train"]) > 10_000
    assert work_through(experiment) == []
    other = pickle.loads(pickled := pickle.dumps(experiment))
    assert len(pickled) < 20_000, "without text and tokens"
    assert names(whole_plan(other)) == names(runs)
    assert all(other.is_done(pickle.loads(pickle.dumps(run))) for run in whole_plan(other))
    assert files(experiment) == before
    folder = {run.name: experiment.folder(run) for run in runs}
    assert len(folder) == len(runs), "a name is one run's"
    assert set(folder.values()) == set(experiment.runs.iterdir())
    again = [name for name in folder if name.startswith("grid-revised-seed-1337")]
    searched = [path for name, path in folder.items() if name.startswith("search-revised")]
    assert ([folder[name] for name in again], set(again) & set(one_each)) == (searched, set())
    for seed in SEEDS:
        assert folder[f"honest-seed-{seed}"] == folder[f"retrain-seed-{seed}"]
    assert {"retrain-seed-1337", "honest-seed-1337"} <= set(one_each), "of two measures"
    with tarfile.open(experiment.out / "all.tar.gz") as archive:
        logged = {Path(name).parent.name for name in archive.getnames() if name.endswith(STEPS)}
    bare = {folder[run.name].name for run in runs if run.keeps == ("epochs",)}
    assert logged == {path.name for path in folder.values()} - bare
    assert names(chosen(runs, ["no-mask-s", "mask"])) == ["mask", "no-mask-seed-1"]


class Pool(Executor):
    """In the place of workers: what is handed out is made in this process when it is waited for. A
    minute goes by with each run; of the first `kills` the worker is killed."""

    def __init__(self, monkeypatch, experiment, kills=0):
        self.folder, self.kills, self.now, self.worker = experiment.folder, kills, 0, Mock()
        self.started, self.given, self.patience, self.packed = [], [], [], []
        clock = SimpleNamespace(monotonic=lambda: self.now, strftime=time.strftime)
        change = partial(monkeypatch.setattr, runner)
        change("time", clock)
        change("cores", lambda: 4)
        change("pack", lambda *_: self.packed.append(self.now))
        change("ProcessPoolExecutor", self.start)
        change("active_children", lambda: [self.worker])
        change("wait", self.wait)
        change("_experiment", experiment)

    def start(self, processes, context, _, given):
        self.started.append((processes, context.get_start_method(), given[-1]))
        return self

    def submit(self, make, run):
        self.given.append(run.name)
        future = Future()
        future.make = make
        return future

    def wait(self, busy, timeout, **_):
        assert len(set(map(self.folder, busy.values()))) == len(busy), "one training twice"
        self.now += 60
        self.patience.append(timeout)
        first = next(iter(busy))
        if len(self.patience) <= self.kills:
            first.set_exception(BrokenProcessPool())
        else:
            first.set_result(first.make(busy[first]))
        return {first}, set()


def test_a_plan_survives_failure_deadline_and_kill(some_articles, tmp_path, monkeypatch, capsys):
    rates = {"revised.space.learning_rate": (1e30, 2e-3, 1e-3)}
    experiment = open_plan(some_articles, tmp_path, searched=True, **rates)
    first = ["honest-seed-1337", "no-mask-deep", "honest-seed-1", "search-revised-lr1e+30-1l-2h-8d"]
    assert names(whole_plan(experiment))[:4] == first, "what is retrained is searched for first"
    assert whole_plan(experiment)[0].keeps == ("weights",), "until then it may be the paper's best"
    search = names(experiment.grid("revised"))
    retrain, again = [f"retrain-seed-{seed}" for seed in SEEDS], "grid-revised-seed-1-lr1e+30"

    only, archive = ("retrain", "search-revised", "grid-revised"), tmp_path / "a.tar.gz"
    pool = Pool(monkeypatch, experiment)
    left = names(work_through(experiment, only, 3.5 + RESERVE / 60, 2, archive))
    assert pool.started == [(2, "spawn", 2)], "as many processes as were asked for share the cores"
    # What failed is not tried under its other name, and the searched grid's best is now known.
    assert pool.given == [*search, f"{again}-1l-2h-8d", retrain[0]]
    assert pool.patience == [60, 60, 60, 30], "to the deadline"
    assert pool.packed == [120, 240, 240], "when a minute is over, and at the end"
    assert pool.worker.terminate.call_count == 1, "a worker that is busy when the time is over"
    assert [name for name in left if name.startswith(only[:2])] == [*retrain, search[0]]
    assert read_record(experiment.folder(experiment.grid("revised")[0]))["status"] == "failed"
    said = capsys.readouterr().err
    assert "DivergedError" in said
    ended = re.findall(r"( \d+ s)  (search\S+): validation", said)
    assert ended == [(" 120 s", search[1]), (" 180 s", search[2])]

    pool = Pool(monkeypatch, experiment, kills=1)
    assert names(work_through(experiment, only[:2], processes=9)) == search[:1]
    assert pool.started == [(3, "spawn", 1)] * 2, "no more than there are runs; anew after a kill"
    assert pool.given == [*retrain, search[0], *retrain, search[0]]
    assert pool.worker.terminate.called
    pool = Pool(monkeypatch, experiment, kills=9)
    assert names(work_through(experiment, ["unshifted"])) == ["unshifted"]
    assert pool.started == [(1, "spawn", 4)] * 3
    assert "Workers were killed 3 times" in capsys.readouterr().err


def pack_after_each_run(experiment, archive):
    runner.PACK_EVERY, runner.cores = 0, lambda: 1  # more threads would sum in another order
    work_through(experiment, FEW, archive=archive)


def packed(archive) -> list[str]:
    with tarfile.open(archive) as file:
        return [Path(name).name for name in file.getnames()]


@pytest.mark.slow
def test_a_killed_plan_is_carried_on_elsewhere_from_its_archive(whole, some_articles, tmp_path):
    killed, other = (open_plan(some_articles, tmp_path / name) for name in ("killed", "other"))
    archive = tmp_path / "kept.tar.gz"
    child = get_context("spawn").Process(target=pack_after_each_run, args=(killed, archive))
    child.start()
    try:
        while not archive.exists() or "test_score.json" not in packed(archive):
            assert child.is_alive(), "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        child.kill()  # its worker leaves with it
        child.join()
    unpack(archive, other.out, "tiny")
    before = files(other)
    assert work_through(other, FEW, archive=archive) == []
    assert before.items() <= files(other).items(), "nothing of it was made again"
    for run in chosen(whole_plan(other), FEW):
        folders = whole.experiment.folder(run), other.folder(run)
        steps, again = ((folder / STEPS).read_text() for folder in folders)
        best, best_again = (read_record(folder)["best"]["valid_loss"] for folder in folders)
        assert (steps, best) == (again, best_again), run.name


@pytest.fixture(scope="module")
def small(some_articles, two_seeds, tmp_path_factory):
    """Two runs with a score each, packed with the weights of the first, and the archive's files."""
    experiment = open_plan(some_articles, two_seeds)
    runs = [experiment.retraining(seed) for seed in SEEDS]
    archive = pack(experiment, runs, tmp_path_factory.mktemp("small") / "small.tar.gz")
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    return SimpleNamespace(experiment=experiment, runs=runs, archive=archive, files=files)


def forged(small, name="", content="", kind=tarfile.REGTYPE, more=(), digest="", **about):
    """Somebody's archive with right digests: its file `name` has that content or that of the file
    of that name, or is missing (None). more: members after all. about: changes of its manifest."""
    folders = [f"runs/{small.experiment.folder(run).name}" for run in small.runs]
    name, content, *more = (
        text and text.replace("RUN", folders[0]).replace("OTHER", folders[1])
        for text in (name, content, *more)
    )
    files = dict(small.files)
    manifest = json.loads(files.pop(MANIFEST))
    if content is None:
        files.pop(name, None)
    elif name:
        files[name] = files.get(content, content.encode())
    manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in files}
    manifest["files"] |= {name: digest} if digest else {}
    files = {MANIFEST: json.dumps(manifest | about).encode(), **files}
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as tar:
        for member in map(tarfile.TarInfo, [*files, *more]):
            member.size = len(files.get(member.name, b""))
            if member.name == name:
                member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO(files.get(member.name, b"")))
    return packed.getvalue()


def with_flipped_bit(whole: bytes, place: int) -> bytes:
    flipped = bytearray(whole)
    flipped[place] ^= 16
    return bytes(flipped)


OUTSIDE = "../outside /tmp/outside runs/../../outside RUN/../../../outside runs\\outside index.html"
OUTSIDE += " .git/config conftest.py notebooks/08_reproduction_audit.ipynb RUN/last.pt RUN/.owner"
OUTSIDE += " RUN/notes.json runs/x/record.json RUN/record.json/"
TYPES = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
DAMAGED, OTHERS = "is damaged or not an archive", "is damaged or of another run"
MEMBER = "is not the file of its manifest"
FORGED = [
    *(({"name": name}, "no file of an archive is called") for name in OUTSIDE.split()),
    *(({"name": "RUN/sampling.json", "kind": kind}, "is no regular file") for kind in TYPES),
    ({"name": "RUN/record.json", "content": "RUN/record.json", "digest": "0" * 64}, MEMBER),
    ({"name": "RUN/scores.json", "content": None, "digest": "0" * 64}, "scores.json is missing"),
    ({"more": ["RUN/record.json"]}, MEMBER),
    ({"more": ["RUN/scores.json"] * 1_000}, MEMBER),
    ({"format": "llmlite-records-1"}, "or those of another version"),
    ({"profile": "quick"}, "is of profile 'quick', not 'tiny'; say --profile"),
    ({"profile": ["\n\x1b[2J"] * 99}, "is of profile "),
    ({"name": "\n\x1b[2J"}, "no file of an archive is called '"),
    ({"files": []}, "'files' of dict"),
    ({"files": dict.fromkeys(map(str, range(10_001)), "")}, "more than 10,000 files"),
    ({"name": "RUN/steps.jsonl", "content": " " * (2**23 + 1)}, MEMBER),
    *(({"name": f"RUN/{name}", "content": content}, OTHERS) for name, content in [
        ("test_score.json", "OTHER/test_score.json"), ("test_score.json", "[" * 9999),
        ("record.json", "OTHER/record.json"), ("record.json", "{}"), ("record.json", None),
        ("steps.jsonl", "RUN/record.json"), ("best.safetensors", "RUN/record.json"),
    ]),
    ({"name": "OTHER/best.safetensors", "content": "RUN/best.safetensors"}, OTHERS),
    ({"name": "tokenizer-00000000-9.json", "content": "RUN/record.json"}, OTHERS),
    (lambda whole: whole[: len(whole) // 2], DAMAGED),
    (lambda whole: whole + b"x", DAMAGED),
    (lambda whole: with_flipped_bit(whole, 1), DAMAGED),
    (lambda whole: with_flipped_bit(whole, len(whole) // 2), DAMAGED),
    (lambda whole: with_flipped_bit(whole, -8), DAMAGED),  # of the checksum at the end
    (lambda whole: gzip.compress(bytes(2**27 + 1), 1), "it unpacks to more than 134,217,728 bytes"),
    (lambda whole: b"", DAMAGED),
    (None, "it is no regular file"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), FORGED)
def test_what_is_no_archive_of_ours_writes_nothing(small, tmp_path, monkeypatch, changes, said):
    archive, out = tmp_path / "in" / "a.tar.gz", tmp_path / "in" / "out"
    archive.parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "in"))  # where it is unpacked
    if changes is None:
        os.mkfifo(archive)
    elif callable(changes):
        archive.write_bytes(changes(small.archive.read_bytes()))
    else:
        archive.write_bytes(forged(small, **changes))
    with pytest.raises(CheckpointError, match=re.escape(said)) as error:
        unpack(archive, out, "tiny")
    assert str(archive) in str(error.value)
    assert [*tmp_path.rglob("*")] == [archive.parent, archive]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_a_break_leaves_whole_files_and_no_finished_run(small, tmp_path, monkeypatch, error):
    rename, calls = os.replace, []

    def replace(source, to):
        calls.append(to) if tmp_path in to.parents else None
        if len(calls) == 4:
            raise error
        rename(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises((KeyboardInterrupt, DiskFullError)):
            unpack(small.archive, tmp_path, "tiny")
    left = content(tmp_path)
    assert len(left) == 3
    assert left.items() <= small.files.items()
    assert not list(tmp_path.rglob("record.json"))
    unpack(small.archive, tmp_path, "tiny")
    assert content(tmp_path) == {n: c for n, c in small.files.items() if n != MANIFEST}


def test_a_folder_is_an_archive_too_and_one_too_large_takes_no_place(small, tmp_path, monkeypatch):
    unpack(Path(__file__).parents[1] / "figures" / "records" / "full", tmp_path / "full", "full")
    logs = [len(read_steps(folder)) for folder in (tmp_path / "full" / "runs").iterdir()]
    assert max(logs) > 3_000, "each is one that notebooks can read"
    stage(small.experiment, small.runs, folder := tmp_path / "folder")
    unpack(folder, tmp_path / "out", "tiny")
    assert content(folder).keys() == {n for n in small.files if not n.endswith(WEIGHTS)}
    assert {MANIFEST, *content(tmp_path / "out")} == content(folder).keys()
    path = next(folder.rglob("steps.jsonl"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"steps\.jsonl is a link"):
        unpack(folder, tmp_path / "again", "tiny")
    monkeypatch.setattr("llmlite.plan.archive.LARGEST", 9)
    (kept := tmp_path / "kept.tar.gz").write_bytes(b"smaller")
    assert pack(small.experiment, small.runs, kept) == tmp_path / "too-large-kept.tar.gz"
    assert kept.read_bytes() == b"smaller"
    unpack(tmp_path / "too-large-kept.tar.gz", tmp_path / "too large", "tiny")


def test_what_needs_a_gpu_is_shown_from_its_records(whole, some_articles, tmp_path, capsys):
    experiment = open_plan(some_articles, tmp_path, needs_gpu=True)
    audit, table = Audit(experiment), experiment.search("revised")
    assert table.status.tolist() == ["missing"] * 2
    assert audit.leaks() == {}
    said = capsys.readouterr().out
    missing = "2 of 2 configurations are missing; profile tiny is trained on a GPU, by `llmlite run"
    assert (said.count(missing), "no-mask-deep" in said) == (1, True)
    asked = (experiment.train, experiment.retraining()), (audit.measured, "scores")
    for make, what in (*asked, (audit.record, "mask")):
        with pytest.raises(MissingRunError, match="There is no finished run"):
            make(what)
    with pytest.raises(LLMLiteError, match="runs are to be trained; profile tiny is trained on a"):
        work_through(experiment)
    assert not experiment.runs.exists()

    # Of a grid's seeds those that are there are shown.
    archive = tmp_path / "a.tar.gz"
    some = chosen(whole_plan(whole.experiment), ["search-revised"])
    unpack(pack(whole.experiment, some, archive), tmp_path, "tiny")
    assert WEIGHTS not in packed(archive)
    assert set(audit.grids("revised").seed) == {SEEDS[0]}
    assert len(audit.grids("first")) == 0

    there = files(experiment)
    unpack(whole.experiment.out / "all.tar.gz", tmp_path, "tiny")
    before = files(experiment)
    assert there.items() <= before.items(), "what is there stays as it is"
    assert re.search(r"tiny · .* own text .* shown on CPU .+, trained on CPU", str(experiment))
    assert experiment.seed_scores().equals(whole.experiment.seed_scores())
    assert experiment.model.config == whole.experiment.model.config
    for grid in ("first", "revised", "longer"):
        assert audit.grids(grid).equals(whole.grids(grid))
    for what in ("scores", *STUDIES):
        assert audit.measured(what) == whole.measured(what)
    first, *_ = audit.honest_runs.values()
    assert experiment.measured(first, "mixtures")["mixtures"], "kept, and not measured again"
    for name, run in audit.leak_runs.items():
        assert audit.record(name)["measures"] == whole.record(name)["measures"]
        assert read_record(experiment.folder(run))["command"] is None
    assert len(list(tmp_path.glob(f"runs/*/{WEIGHTS}"))) == 1, "the model that is studied"
    assert files(experiment) == before

    # The weights of what is still to be measured are kept.
    pack(whole.experiment, [replace(some[0], measures={"another": len})], archive)
    assert WEIGHTS in packed(archive)
