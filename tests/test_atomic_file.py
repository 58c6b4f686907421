"""Files that appear complete or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pocket_tts_cy.atomic_file import replacing_file


def put(path, content=b"new"):
    with replacing_file(path) as file:
        file.write(content)


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "out"
    with replacing_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "out"
    put(path, b"old")
    with open(path, "rb") as old:
        put(path)
        assert old.read() == b"old"
    assert path.read_bytes() == b"new"


def test_relative_and_long_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out", "x" * 255):
        put(name)
        assert (tmp_path / name).read_bytes() == b"new"


def test_permissions_follow_the_umask_or_the_old_file(tmp_path):
    script = (
        "import os, sys\n"
        "from pocket_tts_cy.atomic_file import replacing_file\n"
        "os.umask(0o027)\n"
        "with replacing_file(sys.argv[1]) as file: file.write(b'new')\n"
    )
    path = tmp_path / "out"
    command = [sys.executable, "-c", script, str(path)]
    subprocess.run(command, check=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    subprocess.run(command, check=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("folder") / "file")
    put(link)
    assert link.is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"
    assert len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_after_an_exception_nothing_is_left(tmp_path, error):
    def fail():
        with replacing_file(tmp_path / "out") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_write_protected_file_or_folder(tmp_path, monkeypatch):
    path = tmp_path / "out"
    put(path, b"old")
    # Root may write anything, so the answers of the system are simulated.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="out"):
        put(path)
    monkeypatch.undo()
    real_open = open

    def refusing(name, mode="r", *arguments, **keywords):
        if "x" in mode:
            raise PermissionError(13, "Permission denied", str(name))
        return real_open(name, mode, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(PermissionError, match="out'") as caught:
        put(path)
    assert ".part" not in str(caught.value)
    assert path.read_bytes() == b"old"


def test_folders_and_missing_folders(tmp_path):
    with pytest.raises(IsADirectoryError):
        put(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        put(tmp_path / "missing" / "out")
