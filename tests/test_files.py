"""Folders that one process works in at a time, whatever lies in them."""

import errno
import os
from unittest.mock import Mock

import pytest

from llmlite.files import BusyError, LLMLiteError, hold, is_held


def test_what_a_link_points_to_stays_as_it_is(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.write_text("of mine")
    folder.mkdir()
    (folder / ".owner").symlink_to(mine)
    with hold(folder), pytest.raises(BusyError, match=f"in use by process {os.getpid()} on "):
        hold(folder).__enter__()
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(LLMLiteError, match=r"cannot be locked .*it is a link"):
        hold(folder).__enter__()
    assert mine.read_text() == "of mine"
    assert not is_held(folder)


@pytest.mark.parametrize("owner", [lambda path: path.mkdir(), lambda p: p.symlink_to("/dev/zero")])
def test_whoever_holds_a_folder_is_named_if_that_can_be_read(tmp_path, owner):
    with hold(tmp_path):
        (tmp_path / ".owner").unlink()
        owner(tmp_path / ".owner")
        with pytest.raises(BusyError, match="in use by another process; wait"):
            hold(tmp_path).__enter__()
        assert is_held(tmp_path)
        (tmp_path / ".owner").rename(tmp_path / ".other")


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.EOPNOTSUPP, "?")])
def test_a_file_system_without_locks_is_called_so(tmp_path, monkeypatch, error):
    monkeypatch.setattr("llmlite.files.FileLock.acquire", Mock(side_effect=error))
    with pytest.raises(LLMLiteError, match=r"cannot be locked .* file system that has locks"):
        hold(tmp_path).__enter__()
    (tmp_path / ".lock").touch()
    assert not is_held(tmp_path)
