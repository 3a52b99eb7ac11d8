"""Arrays of a file that is mapped: the same as those that are read, never changed in the file, larger than memory."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl_framework.mapped_arrays import mapped


@pytest.fixture
def path(tmp_path):
    generator = torch.Generator().manual_seed(0)
    save_file({"x": torch.randint(0, 256, (5, 1, 7, 3), dtype=torch.uint8, generator=generator),
               "y": torch.randint(-2**40, 2**40, (5,), generator=generator),
               "none": torch.empty(0, 3, dtype=torch.uint8)},
              tmp_path / "a.safetensors", {"sha256": "{}"})
    return tmp_path / "a.safetensors"


def test_they_are_those_that_another_reader_gives(path):
    expected, found = load_file(path), mapped(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())


def test_a_change_stays_in_this_process(path):
    before = path.read_bytes()
    found = mapped(path)
    found["x"].fill_(3)
    assert found["x"].eq(3).all() and path.read_bytes() == before


def test_a_file_may_be_larger_than_the_memory(tmp_path):
    n = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    head = (f'{{"x":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}').encode()
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        try:
            file.truncate(8 + len(head) + n)
        except OSError:
            pytest.skip("this file system has no files of that size")
    found = mapped(path)["x"]
    assert len(found) == n and found[n - 1] == 0 and found[torch.tensor([0, n // 2])].tolist() == [0, 0]


@pytest.mark.parametrize("n", [0, 4, 8, 20, -1])
def test_a_file_cut_short_is_refused(path, n):
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises((ValueError, OSError)):
        mapped(path)


def test_types_are_those_that_caches_hold(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(KeyError):
        mapped(tmp_path / "a.safetensors")
