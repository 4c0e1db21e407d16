"""A staged directory is there whole or not at all, whatever interrupts it."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.modeling.staged_directory import check_space, staged_directory


def checkpoint(path, text="old"):
    path.mkdir()
    (path / "config.json").write_text(text)
    (path / "old.txt").write_text("old")
    return path


def test_appears_only_when_the_block_ends(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_directory(out, overwrite=False) as partial:
        (partial / "config.json").write_text("{}")
        assert not out.exists()
        assert partial.parent == out.parent
        assert partial.name.startswith(".out.partial-")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "config.json").read_text() == "{}"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path, error):
    def work():
        with staged_directory(tmp_path / "out", overwrite=False) as partial:
            (partial / "config.json").write_text("{}")
            raise error

    with pytest.raises(error):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_is_a_clear_error(tmp_path):
    with pytest.raises(CapacityError, match="No space left"), staged_directory(tmp_path / "out", overwrite=False):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_everything_and_only_at_the_end(tmp_path):
    out = checkpoint(tmp_path / "out")
    with pytest.raises(RuntimeError), staged_directory(out, overwrite=True):
        raise RuntimeError
    assert (out / "old.txt").read_text() == "old"
    with staged_directory(out, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
        assert (out / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_targets_that_are_refused(tmp_path):
    out = checkpoint(tmp_path / "out")
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("years of work")
    for target, overwrite, source, said in [
        (out, False, None, "--overwrite"),
        (out, True, out, "is, or contains, the checkpoint that is read"),
        (tmp_path, True, out, "is, or contains, the checkpoint that is read"),
        (thesis, True, None, "no checkpoint"),
        (out / "config.json", True, None, "is a file"),
    ]:
        with pytest.raises(ConfigError, match=said), staged_directory(target, overwrite=overwrite, source=source):
            pytest.fail("the block must not run")
    assert (thesis / "thesis.tex").read_text() == "years of work"
    assert (out / "config.json").read_text() == "old"


def test_an_empty_target_is_fine(tmp_path):
    (tmp_path / "out").mkdir()
    with staged_directory(tmp_path / "out", overwrite=False) as partial:
        (partial / "a").write_text("a")
    assert (tmp_path / "out" / "a").read_text() == "a"


def test_leftovers_of_the_dead_go_and_the_living_are_respected(tmp_path):
    dead = tmp_path / ".out.partial-00000000"
    dead.mkdir()
    other = tmp_path / ".other.partial-00000000"
    other.mkdir()
    with staged_directory(tmp_path / "out", overwrite=False) as partial:
        assert not dead.exists()
        with pytest.raises(ConfigError, match="another run"), staged_directory(tmp_path / "out", overwrite=False):
            pytest.fail("the block must not run")
        assert partial.exists(), "a refused run must not remove the living one's work"
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    checkpoint(tmp_path / ".out.replaced-00000000")
    with pytest.raises(RuntimeError), staged_directory(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "old.txt").read_text() == "old"


def test_space_is_checked(tmp_path, monkeypatch):
    check_space(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(3 * 10**9))
    with pytest.raises(CapacityError, match=r"5\.00 GB are needed and 3\.00 GB are free"):
        check_space(tmp_path, 5 * 10**9)


def test_names_with_wildcards_match_only_themselves(tmp_path):
    other = tmp_path / ".a.partial-00000000"
    other.mkdir()
    with staged_directory(tmp_path / "[ab]", overwrite=False):
        assert other.exists()
