"""Files are replaced as a whole or not at all."""

import json

import pytest

from llmlite.files import replacing, write_json


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new folder" / "record.json"
    write_json(path, {"loss": 1.5})
    write_json(path, {"loss": 1.25, "name": "ü"})
    assert json.loads(path.read_text("utf-8")) == {"loss": 1.25, "name": "ü"}
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_in_between_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as aside:
            aside.write_bytes(b"half of the n")
            assert path.read_bytes() == b"old"
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_aside_keeps_the_suffix_that_writers_go_by(tmp_path):
    with replacing(tmp_path / "tokens.npz") as aside:
        assert aside.parent == tmp_path
        assert aside.suffix == ".npz"
        aside.touch()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_a_number(tmp_path, number):
    path = tmp_path / "record.json"
    write_json(path, {"loss": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": number})
    assert json.loads(path.read_text()) == {"loss": 1.5}
