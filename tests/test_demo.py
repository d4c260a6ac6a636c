# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's words; that it works, its users see."""

import sys

import pytest

from scripts import demo


def test_footage_that_cannot_be_read_is_told_by_the_engine(shot, tmp_path, capfd):
    demo.check_footage(sys.executable, shot.write_movie(tmp_path / "a.mkv"))
    (tmp_path / "sound.mp4").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        demo.check_footage(sys.executable, tmp_path / "sound.mp4")
    assert "error: Expected a movie" in capfd.readouterr().err


@pytest.mark.parametrize("frames", ["9-1", "all"])
def test_frames_that_are_no_range_are_refused(capsys, frames):
    with pytest.raises(SystemExit):
        demo.parse_args(["--frames", frames])
    assert f"such as 1-24; got '{frames}'" in capsys.readouterr().err
