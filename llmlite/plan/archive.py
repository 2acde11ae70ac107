"""What finished runs left, in one file: to carry on elsewhere, and to draw notebooks from.

An archive holds records, measures and logs of steps, and the weights that somebody still needs, in
half precision.
"""

import json
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from llmlite.experiment import Experiment
from llmlite.files import CheckpointError, replacing, tqdm, write_json
from llmlite.run import RECORD, STEPS, WEIGHTS, Run, load_model, save_weights

MANIFEST, FORMAT = "manifest.json", "llmlite-records-1"
LARGEST = 16 * 2**20  # bytes of an archive
THIN = 500  # lines of a step log that nothing but a curve is drawn from


def pack(experiment: Experiment, runs: list[Run], archive: Path) -> Path:
    """`stage`, with weights, in one .tar.gz."""
    with tempfile.TemporaryDirectory() as scratch:
        staged = stage(experiment, runs, Path(scratch))
        for run in runs:
            folder = experiment.folder(run)
            needed = "weights" in run.keeps or not experiment.is_done(run)
            # Records alone, of another machine, have no weights.
            if needed and experiment.is_trained(run) and (folder / WEIGHTS).exists():
                _halve(folder / WEIGHTS, staged / "runs" / folder.name / WEIGHTS)
        with replacing(archive) as aside, tarfile.open(aside, "w:gz") as file:
            for path in sorted(staged.rglob("*")):
                file.add(path, path.relative_to(staged), recursive=False)
        # One that is too large is kept: the machine may be gone tomorrow.
        if (size := archive.stat().st_size) > LARGEST:
            said = f"{archive} has {size:,} bytes, more than the {LARGEST:,} that it should have."
            tqdm.write(said, file=sys.stderr)
    return archive


def stage(experiment: Experiment, runs: list[Run], to: Path) -> Path:
    """Copy what the trained runs left into `to`, but for their weights."""
    trained = [run for run in runs if experiment.is_trained(run)]
    whole = {experiment.folder(run) for run in trained if "steps" in run.keeps}
    for folder in sorted({experiment.folder(run) for run in trained}):
        own = to / "runs" / folder.name
        own.mkdir(parents=True)
        for path in sorted(folder.glob("[!.]*.json")):  # a hidden one is half-written
            content = json.loads(path.read_text("utf-8"))
            if path.name == RECORD:
                content["command"] = None  # it has the paths of the machine
            write_json(own / path.name, content)
        rows = (folder / STEPS).read_text("utf-8").splitlines(keepends=True)
        step = 1 if folder in whole else max(1, -(-len(rows) // THIN))
        (own / STEPS).write_text("".join(rows[::step]), "utf-8")
    for path in experiment.out.glob("tokenizer-*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    about = {"format": FORMAT, "profile": experiment.profile.name, "data": experiment.dataset.name}
    write_json(to / MANIFEST, about)
    return to


def _halve(weights: Path, to: Path) -> None:
    model, header = load_model(weights)
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    about = {k: v for k, v in header.items() if k not in ("format", "config", "sha256")}
    save_weights(model.config, half, to, **about)


def unpack(archive: Path, out: Path, profile: str) -> None:
    """Put the runs of an archive, or of a folder that `stage` has left, into `out`, where they are
    not there yet. CheckpointError if they are of another profile."""
    try:
        if archive.is_dir():
            return _take(archive, out, profile, archive)
        with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as file:
            file.extractall(scratch, filter="data")
            _take(Path(scratch), out, profile, archive)
    except FileNotFoundError:
        raise CheckpointError(f"There are no records of `llmlite run` at {archive}.") from None
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        raise CheckpointError(
            f"{archive} is damaged or not an archive; copy it once more."
        ) from None


def _take(staged: Path, out: Path, profile: str, archive: Path) -> None:
    about = json.loads((staged / MANIFEST).read_text("utf-8"))
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{archive} holds no records of `llmlite run` ({FORMAT}).")
    if (theirs := about.get("profile")) != profile:
        raise CheckpointError(f"{archive} is of profile {theirs}, not {profile}; say --profile.")
    for path in (*staged.glob("runs/*/*"), *staged.glob("tokenizer-*.json")):
        to = out / path.relative_to(staged)
        if not to.exists():
            with replacing(to) as aside:
                aside.write_bytes(path.read_bytes())
