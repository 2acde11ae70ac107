"""Files are replaced as a whole or not at all."""

import json

import pytest

from llmlite.files import replacing, write_json


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new folder" / "record.json"
    for content in ({"loss": 1.5}, {"loss": 1.25, "name": "ü"}):
        write_json(path, content)
        assert json.loads(path.read_text("utf-8")) == content
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"loss": number})
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_in_between_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "tokens.npz"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as aside:
            assert (aside.parent, aside.suffix) == (tmp_path, ".npz"), "writers go by the suffix"
            aside.write_bytes(b"half of the n")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
