# SPDX-License-Identifier: GPL-3.0-or-later
import json
import os
from pathlib import Path

import pytest

from core.errors import JobError
from core.job import Job, Source, job_from_dict, job_text, parse_frames, read_job


def test_json_from_blender_and_paths_beside_the_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps({"footage": {"path": "../a.mov"}, "frames": [3, 9], "output": {"folder": "out"}}))
    job = read_job(path)
    assert Path(job.footage.path) == tmp_path / "../a.mov"
    assert (job.frames, Path(job.output.folder), job.plate.path) == ((3, 9), tmp_path / "out", "")


def test_a_models_path_is_beside_the_file_too_and_a_name_stays_one(tmp_path):
    for model, meant in (("default", "default"), ("nets/a.pth", str(tmp_path / "nets/a.pth"))):
        assert job_from_dict({"footage": {"path": "a.mov"}, "model": model}, tmp_path).model == meant


def test_a_written_job_reads_back_the_same(tmp_path):
    job = job_from_dict({"footage": {"path": "a.mov"}, "plate": {"path": "p.png"}, "frames": [1, 2]}, tmp_path)
    (tmp_path / "job.yaml").write_text(job_text(job, tmp_path))
    assert read_job(tmp_path / "job.yaml") == job
    assert json.loads(job_text(job, tmp_path))["footage"]["path"] == job.footage.path  # the add-on has no YAML


def test_json_is_read_as_json(tmp_path):
    """YAML knows neither halves of characters nor tabs nor numbers without a point, and takes a line separator away."""
    names = ["\U0001f600.mov", "a\x85b.mov", "\x7f.mov"]
    for name in names:
        (tmp_path / "job.yaml").write_text(json.dumps({"footage": {"path": name}, "detail": 5e-05}, indent="\t"))
        job = read_job(tmp_path / "job.yaml")
        assert (Path(job.footage.path).name, job.detail) == (name, 5e-05)
        (tmp_path / "marked.yaml").write_text((tmp_path / "job.yaml").read_text(), encoding="utf-8-sig")
        assert read_job(tmp_path / "marked.yaml") == job


@pytest.mark.parametrize(("written", "meant"), [("[0001, 0100]", (1, 100)), ("[0008, 0x10]", (8, 16))])
def test_yaml_means_what_it_seems_to_say(tmp_path, written, meant):
    """To YAML 1.1, 0100 is 64 and off is false."""
    (tmp_path / "job.yaml").write_text(f"footage: {{path: a.0001.exr}}\nframes: {written}\nplate: {{align: off}}\n")
    job = read_job(tmp_path / "job.yaml")
    assert (job.frames, job.plate.align) == (meant, "off")


def test_a_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.mov")
    job = job_from_dict({"footage": {"path": name}}, tmp_path)
    (tmp_path / "job.yaml").write_text(job_text(job, tmp_path), encoding="utf-8")
    assert read_job(tmp_path / "job.yaml") == job


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "mapping"),
        ("{}", "footage: path"),
        ("footage: {path: a, colour: x}", "colour"),
        ("{footage: {path: a}, plaet: {}}", "plaet"),
        ("{footage: {path: a}, frames: [9, 3]}", "9-3"),
        ("{footage: {path: a}, frames: [1]}", "first, last"),
        ("{footage: {path: 7}}", "path as str"),
        ("{footage: {path: a}, detail: 2}", "detail"),
        ("{footage: {path: a}, precision: fp8}", "fp8"),
        ("{footage: {path: a}, version: 9}", "version 1"),
        ("footage: !!python/object/apply:os.system [touch hacked]", "YAML"),
        ("a: &a [x, x]\nb: [*a, *a]", "aliases"),
        ("masks: {garbage: {path: a}}\nmasks: {core: {path: b}}", "'masks' is there twice"),
        ('{"footage": {"path": "a", "path": "b"}}', "'path' is there twice"),
        ("{footage: {path: a}, model: ''}", "a model; got ''"),
        ("footage: {", "YAML"),
        ("[" * 100_000, "YAML"),
        ("footage: {path: 2023-02-30}", "YAML"),
        ("footage: {path: 0b_}", "YAML"),
        ("footage: {path: !!int abc}", "YAML"),
        ("footage: {path: !!timestamp x}", "YAML"),
        ("frames: [1, " + "9" * 5000 + "]", "YAML"),
    ],
)
def test_bad_jobs_are_refused_in_words(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=words):
        read_job(path)
    assert not (tmp_path / "hacked").exists()


def test_absent_and_oversized_job_files(tmp_path):
    with pytest.raises(JobError, match=f"a job file; got the folder {tmp_path}. Name the file in it"):
        read_job(tmp_path)
    with pytest.raises(JobError, match="readable"):
        read_job(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(JobError, match="few kilobytes.*--footage"):
        read_job(tmp_path / "big.yaml")


@pytest.mark.parametrize(("text", "frames"), [("", None), ("4", (4, 4)), ("1001-1100", (1001, 1100))])
def test_frame_ranges(text, frames):
    assert parse_frames(text) == frames


@pytest.mark.parametrize("text", ["a-b", "5-", "9-3", "-"])
def test_bad_frame_ranges(text):
    with pytest.raises(JobError):
        parse_frames(text)


def test_defaults():
    assert Job(Source("a")).model == "default"
