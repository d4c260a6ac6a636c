# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's words, and the builder's; that they work, their users see."""

import subprocess
import sys

import pytest

from scripts import build_extension, demo, environments


def test_footage_that_cannot_be_read_is_told_by_the_engine(shot, tmp_path, capfd):
    demo.check_footage(sys.executable, shot.write_movie(tmp_path / "a.mkv"))
    (tmp_path / "sound.mp4").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        demo.check_footage(sys.executable, tmp_path / "sound.mp4")
    assert "error: Expected a movie" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--footage", "--plate", "--background"])
def test_a_folder_is_called_one(tmp_path, option):
    with pytest.raises(SystemExit, match=f"{tmp_path} is a folder. Name the file in it"):
        demo.main(demo.parse_args([option, str(tmp_path), "--output", str(tmp_path / "out")]))


@pytest.mark.parametrize("frames", ["9-1", "all"])
def test_frames_that_are_no_range_are_refused(capsys, frames):
    with pytest.raises(SystemExit):
        demo.parse_args(["--frames", frames])
    assert f"such as 1-24; got '{frames}'" in capsys.readouterr().err


@pytest.mark.parametrize("script, options", [("demo", []), ("build_extension", ["--blender", "{blender}"])])
def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path, script, options):
    builder = tmp_path / "lib/python3.13/site-packages/bpy/5.2" / build_extension.CLI
    builder.parent.mkdir(parents=True)
    builder.touch()
    (tmp_path / "file").touch()
    options = [option.format(blender=tmp_path) for option in options]
    command = [sys.executable, f"scripts/{script}.py", "--output", str(tmp_path / "file/out"), *options]
    done = subprocess.run(command, cwd=build_extension.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: Expected files that can be read and written; got ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script for a Python")
def test_an_environment_that_was_half_made_is_made_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    python = tmp_path / "python"  # as Debian's without python3-venv
    python.write_text(f'#!/bin/sh\n"{sys.executable}" -m venv --without-pip "$3"; exit 1\n')
    python.chmod(0o755)
    with pytest.raises(SystemExit, match=f"{python} could not make {tmp_path / '.venv'}; its message is above"):
        environments._install(tmp_path / ".venv", python, ["--help"], "nothing")
    python.write_text('#!/bin/sh\ncd "$3"/lib/python3.*/site-packages && mkdir pip && touch pip/__main__.py\n')
    assert environments._install(tmp_path / ".venv", python, ["--help"], "nothing").exists()
    assert (tmp_path / ".venv/.installed-nothing").exists()
