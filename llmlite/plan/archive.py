"""What finished runs left, in one file: to carry on elsewhere, and to draw notebooks from. Records,
measures and logs of steps, and the weights that somebody still needs, in half precision. It may be
anybody's: nothing of it is written before all of it was read, each file as what its name says, by
the reader of such files."""

import gzip
import hashlib
import io
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from llmlite import files
from llmlite import run as runs
from llmlite.audit.heads import STUDIES
from llmlite.experiment import Experiment
from llmlite.files import CheckpointError, LLMLiteError, one_line, replacing, say
from llmlite.run import RECORD, STEPS, WEIGHTS, Run
from llmlite.tokenizer import BPETokenizer

MANIFEST, FORMAT = "manifest.json", "llmlite-records-2"
LARGEST = 16 * 2**20  # bytes of an archive
# At most: bytes of all that is in one, of one of its files but for weights, and files.
UNPACKED, PART, FILES = 2**27, 2**23, 10_000
THIN = 500  # lines of a step log that nothing but a curve is drawn from
MEASURES = ("test_score", "valid_score", "measures", "scores", "mixtures", "heads", *STUDIES)
MEASURES += ("tuned-[a-z0-9-]+",)  # a pattern
OTHERS = "|".join(map(re.escape, (RECORD, STEPS, WEIGHTS)))
NAMES = re.compile(
    r"tokenizer-(?P<key>[0-9a-f]{8})-(?P<size>[0-9]{1,9})[.]json"
    r"|runs/(?P<run>lr[0-9.e+-]+-[0-9]+l-[0-9]+h-[0-9]+d-[0-9a-f]{8})/"
    rf"((?P<measure>{'|'.join(MEASURES)})[.]json|{OTHERS})"
)


# files: name → SHA-256
ABOUT = dict.fromkeys(("format", "profile", "data"), str) | {"files": dict[str, str]}
Manifest = TypedDict("Manifest", ABOUT)


def pack(experiment: Experiment, plan: list[Run], archive: Path) -> Path:
    """What the trained runs left, with weights, in one .tar.gz."""
    contents = _left_by(experiment, plan)
    for run in plan:
        needed = "weights" in run.keeps or not experiment.is_done(run)
        if needed and experiment.is_trained(run):
            folder, record = experiment.folder(run), experiment.record(run)
            with suppress(CheckpointError):  # records alone, of another machine, have none
                half = runs.model_in(folder, record).half()
                content = runs.weights_bytes(half.config, half.state_dict(), **runs.origin(record))
                contents[f"runs/{folder.name}/{WEIGHTS}"] = content
    unpacked, to = io.BytesIO(), archive
    with tarfile.open(fileobj=unpacked, mode="w") as tar:
        for name, content in {MANIFEST: _manifest(experiment, contents), **contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed = gzip.compress(unpacked.getbuffer(), mtime=0)
    if (size := len(packed)) > LARGEST:
        # It is kept, for the machine may be gone tomorrow, and so is a smaller one of before.
        if archive.exists() and archive.stat().st_size <= LARGEST:
            to = archive.with_name(f"too-large-{archive.name}")
        say(f"{to} has {size:,} bytes, more than the {LARGEST:,} that it should have.")
    _write({to.name: packed}, to.parent)
    return to


def stage(experiment: Experiment, plan: list[Run], to: Path) -> None:
    """Write what the trained runs left, but for their weights, into a folder."""
    contents = _left_by(experiment, plan)
    _write({**contents, MANIFEST: _manifest(experiment, contents)}, to)


def _left_by(experiment: Experiment, plan: list[Run]) -> dict[str, bytes]:
    """The files of an archive, by name, but for weights; without those that are damaged."""
    whole = {experiment.folder(run) for run in plan if "steps" in run.keeps}
    bare = {experiment.folder(run) for run in plan if "epochs" in run.keeps} - whole
    contents, out = {}, experiment.runs.parent
    folders = sorted(set(map(experiment.folder, plan)))
    for path in (*out.glob("tokenizer-*"), *(p for f in folders for p in sorted(f.glob("*")))):
        named = NAMES.fullmatch(name := path.relative_to(out).as_posix())
        left_out = path.name == WEIGHTS or (path.name == STEPS and path.parent in bare)
        if not named or left_out or not _is_what_it_says(path, named):
            continue
        content = files.read_bytes(path, UNPACKED)
        if path.name == RECORD:
            content = _record(path.parent)
        if path.name == STEPS:  # its record came before
            if path.parent not in whole:
                lines = content.splitlines(keepends=True)
                content = b"".join(lines[:: max(1, -(-len(lines) // THIN))])
            sealed = _record(path.parent, steps_sha256=hashlib.sha256(content).hexdigest())
            contents[name.replace(STEPS, RECORD)] = sealed
        if len(content) <= PART:
            contents[name] = content
    return contents


def _record(folder: Path, **changes: str) -> bytes:
    """A record without its command, which has the paths of the machine."""
    return files.to_json(runs.read_record(folder) | {"command": None} | changes).encode()


def _manifest(experiment: Experiment, contents: dict[str, bytes]) -> bytes:
    about = {"format": FORMAT, "profile": experiment.profile.name, "data": experiment.dataset.name}
    digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}
    return files.to_json(about | {"files": digests}).encode()


def unpack(archive: Path, out: Path, profile: str) -> None:
    """Put the runs of an archive, or of a folder that `stage` has left, into `out`, where they are
    not there yet. CheckpointError if they are of another profile, or it is no whole archive."""
    try:
        contents = _read(archive, profile)
        with tempfile.TemporaryDirectory() as scratch:
            _write(contents, Path(scratch))
            for name in contents:
                if not _is_what_it_says(Path(scratch) / name, NAMES.fullmatch(name)):
                    raise ValueError(f"{name} is damaged or of another run")
    except LLMLiteError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"There are no records of `llmlite run` at {archive}.") from None
    except Exception as error:  # of tarfile, zlib and many more
        said = f"{archive} is damaged or not an archive ({one_line(error)}); copy it once more."
        raise CheckpointError(said) from None
    # What there is of another training of the same run stays; it does not take up these measures.
    _write({name: contents[name] for name in contents if not (out / name).exists()}, out)


def _write(contents: dict[str, bytes], to: Path) -> None:
    # The record comes last: with it a run is finished.
    for name in sorted(contents, key=lambda name: name.endswith(RECORD)):
        with replacing(to / name) as aside:
            aside.write_bytes(contents[name])


def _read(archive: Path, profile: str) -> dict[str, bytes]:
    """The files of an archive, by name, as its manifest has them."""
    members = _members(archive)
    name, content = next(members, ("", b""))
    about = files.parse_json(content) if name == MANIFEST else {}
    if about.get("format") != FORMAT:
        said = f"{archive} holds no records of `llmlite run`, or those of another version"
        raise CheckpointError(f"{said}; its manifest.json must begin it and say {FORMAT}.")
    if (theirs := about.get("profile")) != profile:
        said = f"{archive} is of profile {theirs!r:.40}, not '{profile}'; say --profile."
        raise CheckpointError(said)
    digests = files.parse_json(content, Manifest)["files"]
    if len(digests) > FILES:
        raise ValueError(f"it has more than {FILES:,} files")
    if wrong := [name for name in digests if not NAMES.fullmatch(name)]:
        raise ValueError(f"no file of an archive is called {wrong[0]!r:.80}")
    contents, left = {}, UNPACKED
    for name, content in members:
        digest = hashlib.sha256(content).hexdigest()
        most = left if name.endswith(WEIGHTS) else min(left, PART)
        if name in contents or digests.get(name) != digest or len(content) > most:
            raise ValueError(f"{name!r:.80} is not the file of its manifest")
        contents[name] = content
        left -= len(content)
    if missing := digests.keys() - contents:
        raise ValueError(f"{min(missing)} is missing")
    return contents


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of its files one after the other, the manifest first."""
    if archive.is_dir():
        yield MANIFEST, (content := files.read_bytes(archive / MANIFEST))
        for name in files.parse_json(content)["files"]:  # by now the names are those of an archive
            if (path := archive.resolve() / name).resolve() != path:
                raise ValueError(f"{name} is a link")
            yield name, files.read_bytes(path, UNPACKED)
        return
    with gzip.open(io.BytesIO(files.read_bytes(archive, UNPACKED))) as file:
        content = file.read(UNPACKED + 1)  # to its end, where the checksum stands
    if len(content) > UNPACKED:
        raise ValueError(f"it unpacks to more than {UNPACKED:,} bytes")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r|") as tar:  # which never goes back
        for member in tar:
            if not member.isreg() or member.issparse():
                raise ValueError(f"{member.name!r:.80} is no regular file")
            yield member.name, tar.extractfile(member).read()


def _is_what_it_says(path: Path, named: re.Match) -> bool:
    """Is a file of an archive whole, and of the run that its folder's name says?"""
    with suppress(LLMLiteError):
        if named["size"]:
            return BPETokenizer.load(path).vocab_size == int(named["size"])
        record = runs.finished_record(path.parent)
        if not record or not runs.is_named(named["run"], record["identity"]):
            return False
        if named["measure"]:
            return runs.read_measure(path.parent, named["measure"], record) is not None
        if path.name == STEPS:
            runs.read_steps(path.parent)
        if path.name == WEIGHTS:
            runs.model_in(path.parent, record)
        return True
    return False
