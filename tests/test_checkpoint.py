"""Checkpoints: whole or absent, and the one before as a fallback."""

import errno
import logging
import os

import pytest
import torch

from cl_framework.checkpoint import Vault
from cl_framework.errors import CheckpointError, ClfError
from cl_framework.files import write_atomic


def filled(folder, n=3):
    vault = Vault(folder, "me")
    for step in range(n):
        vault.save({"value": torch.tensor(step)}, 0, step)
    return vault


def test_the_newest_of_two_kept_is_loaded(tmp_path):
    vault = filled(tmp_path)
    assert len(vault.files()) == 2
    assert vault.load()["value"] == 2


def test_nothing_written_is_none(tmp_path):
    assert Vault(tmp_path / "absent", "me").load() is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, damage, caplog):
    vault = filled(tmp_path)
    newest = vault.files()[0]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncate": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert vault.load()["value"] == 1
    assert "falling back to the one before" in caplog.text and newest.name in caplog.text


def test_all_damaged_is_said(tmp_path):
    vault = filled(tmp_path)
    for file in vault.files():
        file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read; remove that folder to start over"):
        vault.load()


def test_another_configuration_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        Vault(tmp_path, "you").load()


def test_a_half_written_file_is_never_seen(tmp_path, monkeypatch):
    vault = filled(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        vault.save({"value": torch.tensor(9)}, 0, 9)
    assert vault.load()["value"] == 2


def test_a_full_disk_is_said_and_the_old_content_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClfError, match=r"the disk is full: 3 bytes for .*file do not fit; what was there before"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
