"""The cache of compiled kernels on disk."""

import multiprocessing
import os
import warnings

import pytest

from statemix.kernels.cuda import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STATEMIX_CACHE_DIR", str(tmp_path / "not yet there"))
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path / "not yet there" / "cuda"


def test_what_is_stored_is_loaded(folder):
    name = cache.key("source", "sm_90")
    assert cache.load(name) is None
    cache.store(name, b"machine code")
    assert cache.load(name) == b"machine code"
    assert [path.name for path in folder.iterdir()] == [name]


def test_keys_differ_where_any_part_or_its_border_does():
    keys = {cache.key("a", "b"), cache.key("b", "a"), cache.key("ab", ""), cache.key("a", "b", "")}
    assert len(keys) == 4


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_counts_as_missing_and_is_replaced(folder, damage):
    name = cache.key("x")
    cache.store(name, b"machine code" * 100)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"?" if damage is None else damage)
    assert cache.load(name) is None
    cache.store(name, b"machine code" * 100)
    assert cache.load(name) == b"machine code" * 100


def _write_again_and_again(name, payload, count):
    for _ in range(count):
        cache.store(name, payload)


def test_a_reader_beside_writers_finds_all_or_nothing(folder):
    name, payload = cache.key("shared"), os.urandom(200_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_again_and_again, args=(name, payload, 50)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = {cache.load(name) for _ in range(200)}
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {None, payload}
    assert cache.load(name) == payload
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_to_costs_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("STATEMIX_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_warned", False)
    with pytest.warns(UserWarning, match="STATEMIX_CACHE_DIR"):
        cache.store(cache.key("x"), b"code")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(cache.key("x"), b"code")
    assert cache.load(cache.key("x")) is None


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("STATEMIX_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "statemix" / "cuda"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "statemix" / "cuda"
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")  # relative: its specification says to ignore it
    assert cache.directory() == tmp_path / ".cache" / "statemix" / "cuda"
    monkeypatch.setenv("STATEMIX_CACHE_DIR", "~/mine")  # from a file that no shell has read
    assert cache.directory() == tmp_path / "mine" / "cuda"
