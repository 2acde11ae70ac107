"""Files are replaced as a whole or not at all."""

import json
import math
import os

import pytest

from llmlite.files import replacing, write_json


def test_a_file_has_its_old_content_or_its_new_one_and_none_lies_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "record.json"
    for content in ({"loss": 1.5}, {"loss": 1.25, "name": "ü"}):
        write_json(path, content)
        assert json.loads(path.read_text("utf-8")) == content
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"loss": number})

    def half():
        with replacing(path) as aside:
            assert (aside.parent, aside.suffix) == (path.parent, ".json"), "writers go by it"
            aside.write_bytes(b"half of the r")
            raise KeyboardInterrupt

    def killed(aside, to):
        assert (json.loads(aside.read_text("utf-8")), to) == ({"loss": 1.0}, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for write in (half, lambda: write_json(path, {"loss": 1.0})):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert json.loads(path.read_text("utf-8")) == content
    assert list(path.parent.iterdir()) == [path]
