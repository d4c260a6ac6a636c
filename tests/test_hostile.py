# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that mean harm: refused in words by a child process that may not take more than its share of memory."""

from __future__ import annotations

import ast
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import OpenImageIO as oiio
import pytest

from core import delivery, engine, frame_io, plate_files
from core.checkpoints import locate_model
from core.errors import CheckpointError, FootageError, JobError, OutputError, PlateError
from core.job import Job, Output, PlateSource, Source, read_job

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1 << 30  # bytes of address space that the child may add
PEAK = 60 << 20  # bytes of memory that any of these may take

# Reads each file that it is given as footage, prints what came of it, and how much memory it took at most
CHILD = """
import json, resource, sys
from pathlib import Path
from core import delivery, frame_io
from core.errors import MattingError
def peak():  # ru_maxrss would start with that of the process before exec
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
base = peak()
limit = int(sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
for line in sys.stdin:
    path = line.strip()
    try:
        footage = frame_io.open_footage(path)
        frames = sum(1 for _ in footage.frames(footage.numbers[:20]))
        answer = f"read {frames}"
    except MattingError as error:
        answer = f"refused {error}"
    except MemoryError as error:
        answer = f"MEMORY {error!r}"
    except BaseException as error:
        answer = f"CRASH {error!r}"
    print(json.dumps([Path(path).name, answer]), flush=True)
print(json.dumps(["peak", peak() - base]), flush=True)
"""


def read_in_child(paths: list[Path], limit: int = LIMIT) -> tuple[dict[str, str], int]:
    """What reading each file gave, and the memory in bytes that it took at most.

    Raises:
        AssertionError: the child died.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("address space limits")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(limit)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
    )
    answers = dict(json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 0 and len(answers) == len(paths) + 1, (done.returncode, answers, done.stderr[-2000:])
    return answers, answers.pop("peak") * 1024


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def patched(path: Path, target: Path, attribute: bytes, offset: int, value: bytes) -> Path:
    """A copy of an EXR with the bytes at `offset` into an attribute's value replaced."""
    data = bytearray(path.read_bytes())
    start = data.index(attribute + b"\0") + len(attribute) + 1
    start = data.index(b"\0", start) + 1 + 4 + offset  # past the type's name and the size
    data[start : start + len(value)] = value
    target.write_bytes(data)
    return target


def write_exr(path: Path, channels: int = 3, tile: int = 0, size: int = 64) -> Path:
    """Black; more than three channels lie between B and G."""
    spec = oiio.ImageSpec(size, size, channels, "half")
    spec.channelnames = ("B", *(f"C{i:04d}" for i in range(channels - 3)), "G", "R")
    spec.tile_width = spec.tile_height = tile
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    assert output.write_image(np.zeros((size, size, channels), np.float16)) and output.close()
    return path


def exr_bombs(folder: Path) -> dict[str, str]:
    """Files that claim more than they hold: name and a word of the refusal ("" where reading them is also fine)."""
    plain = write_exr(folder / "plain.exr")
    tiled = write_exr(folder / "tiled.exr", tile=16)
    window = struct.pack("<4i", 0, 0, 30000, 4000)
    huge = struct.pack("<4i", -(1 << 30), -(1 << 30), (1 << 30) - 1, (1 << 30) - 1)
    patched(plain, folder / "data_window.exr", b"dataWindow", 0, window)
    patched(plain, folder / "display_window.exr", b"displayWindow", 0, huge)
    patched(plain, folder / "both.exr", b"dataWindow", 0, huge)
    patched(folder / "both.exr", folder / "both.exr", b"displayWindow", 0, huge)
    large = struct.pack("<4i", 0, 0, 29999, 7999)
    patched(plain, folder / "large.exr", b"dataWindow", 0, large)
    patched(folder / "large.exr", folder / "large.exr", b"displayWindow", 0, large)
    patched(tiled, folder / "tiny_tiles.exr", b"dataWindow", 0, window)
    patched(folder / "tiny_tiles.exr", folder / "tiny_tiles.exr", b"tiles", 0, struct.pack("<2I", 1, 1))
    patched(tiled, folder / "vast_tiles.exr", b"tiles", 0, struct.pack("<2I", 1 << 30, 1 << 30))
    write_exr(folder / "too_many_channels.exr", channels=1023, size=64)
    deep = oiio.ImageSpec(64, 64, 4, "half")
    deep.deep = True
    output = oiio.ImageOutput.create(str(folder / "deep.exr"))
    assert output.open(str(folder / "deep.exr"), deep)
    data = oiio.DeepData()
    data.init(64 * 64, 4, ("half",) * 4, ("R", "G", "B", "A"))
    assert output.write_deep_image(data) and output.close()
    return {
        "data_window.exr": "refused",
        "display_window.exr": "refused",
        "both.exr": "refused",
        "large.exr": "refused",
        "tiny_tiles.exr": "refused",
        "vast_tiles.exr": "",
        "too_many_channels.exr": "",
        "deep.exr": "a deep one",
    }


def test_exr_bombs(tmp_path):
    expected = exr_bombs(tmp_path)
    answers, peak = read_in_child([tmp_path / name for name in expected])
    for name, word in expected.items():
        assert word in answers[name] and answers[name].startswith(("read", "refused")), (name, answers[name])
    assert peak < PEAK


def test_layers_that_are_not_asked_for_take_no_memory(tmp_path):
    answers, peak = read_in_child([write_exr(tmp_path / "many.exr", channels=900, size=256)])  # 118 MB in all
    assert answers["many.exr"] == "read 1" and peak < PEAK


def test_png_bombs(tmp_path):
    nothing = zlib.compress(b"\0" * 1000)
    zeros = zlib.compress(b"\0" * (1 << 25), 9)  # 32 MB in 32 kB
    text = chunk(b"zTXt", b"comment\0\0" + zeros)
    profile = chunk(b"iCCP", b"profile\0\0" + zeros)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * (64 * (64 * 3 + 1))))
    files = {
        "absurd.png": png(1 << 30, 1 << 30, chunk(b"IDAT", nothing)),
        "large.png": png(20000, 20000, chunk(b"IDAT", nothing)),
        "promised.png": png(11000, 11000, chunk(b"IDAT", nothing)),
        "texts.png": png(64, 64, *[text] * 8, rows),
        "profile.png": png(64, 64, profile, rows),
        "zero.png": png(0, 5, rows),
        "lying_chunk.png": png(64, 64) + struct.pack(">I", 0x7FFFFFFF) + b"IDAT",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    answers, peak = read_in_child([tmp_path / name for name in files])
    for name in ("absurd.png", "large.png", "promised.png", "zero.png", "lying_chunk.png"):
        assert answers[name].startswith("refused"), answers[name]
    for name in ("texts.png", "profile.png"):
        assert answers[name].startswith(("refused", "read 1")), answers[name]
    assert peak < PEAK


def test_other_headers_that_lie(tmp_path):
    side = 30000
    bmp = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    tga = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, side, side, 24, 0)
    jpeg = (
        b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65500, 65500, 3) + b"\1\x11\0\2\x11\0\3\x11\0" + b"\xff\xd9"
    )
    hdr = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2000000000 +X 2000000000\n"
    tags = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 8),
        (262, 3, 2),
        (273, 4, 8),
        (277, 3, 3),
        (278, 4, side),
        (279, 4, 9),
    ]
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + b"\0" * 4
    dpx = bytearray(b"SDPX" + struct.pack(">I", 2048) + b"V1.0" + b"\0" * 2036)
    dpx[768:780] = struct.pack(">HHII", 0, 1, 2_000_000_000, 2_000_000_000)
    files = {"a.bmp": bmp, "a.tga": tga, "a.jpg": jpeg, "a.hdr": hdr, "a.tif": tiff, "a.dpx": bytes(dpx)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    answers, peak = read_in_child([tmp_path / name for name in files])
    assert all(answer.startswith("refused") for answer in answers.values()), answers
    assert peak < PEAK


CODECS = {"mkv": "ffv1", "mp4": "libx264", "avi": "mpeg4", "mxf": "mpeg2video"}
KINDS = ("png", "exr", "tif", "dpx", "jpg", "bmp", "tga", "hdr", "webp", *CODECS)


def write_whole(path: Path, shot) -> None:
    if path.suffix[1:] not in CODECS:
        image = oiio.ImageBuf(np.ascontiguousarray(shot.frame(0)))
        assert image.write(str(path), "half" if path.suffix == ".exr" else ""), image.geterror()
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot.frame(index), format="rgb24")))
        container.mux(stream.encode(None))


def test_damaged_files_are_read_or_refused(shot, tmp_path):
    """Cut short, and with random bytes overwritten, above all in the header: no crash, no hang, no hunger."""
    random = np.random.default_rng(7)
    paths = []
    for kind in KINDS:
        write_whole(tmp_path / f"whole.{kind}", shot)
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        for index in range(30):
            data = bytearray(whole)
            if index % 4 == 0:
                del data[int(random.integers(len(data))) :]
            reach = len(data) if index % 2 else min(len(data), 400)
            for _ in range(int(random.integers(1, 12)) if reach else 0):
                data[int(random.integers(reach))] = int(random.choice([0, 1, 127, 128, 255, random.integers(256)]))
            paths.append(tmp_path / f"bad {index} of.{kind}")
            paths[-1].write_bytes(data)
    answers, peak = read_in_child(paths, 3 << 30)
    assert not {name: answer for name, answer in answers.items() if not answer.startswith(("read", "refused"))}
    for kind in KINDS:
        assert any(answer.startswith("refused") for name, answer in answers.items() if name.endswith(kind)), kind
    assert peak < PEAK


def test_a_movie_that_says_it_lasts_for_ever(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for pts in (0, 1, 1 << 33):
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            picture.pts = pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    answers, peak = read_in_child([tmp_path / "a.mkv"])
    assert "3 pictures spread over" in answers["a.mkv"] and peak < PEAK


def test_decoders_take_no_larger_frames_than_allowed(shot, tmp_path, monkeypatch):
    """Whatever the container says, it is the decoder that allocates."""
    footage = frame_io.open_footage(shot.write_movie(tmp_path / "a.mkv"))
    monkeypatch.setattr("core.movies.MAX_PIXELS", 1000)
    with pytest.raises(FootageError, match="an error at frame 1"):
        next(footage.frames([1, 2]))


def test_playlists_and_addresses_are_not_followed(tmp_path):
    """A "movie" that names another file or an address, and names that FFmpeg would take for protocols."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    calls = []

    def listen() -> None:
        while not stop.is_set():
            try:
                calls.append(server.accept()[0])
            except TimeoutError:
                continue

    stop = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
    whole = tmp_path / "whole.ts"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    lists = {
        "hls.mov": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "local.mov": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{whole}\n#EXT-X-ENDLIST\n",
        "concat.mov": f"ffconcat version 1.0\nfile {whole}\nfile {url}\n",
        "safe.mov": "ffconcat version 1.0\nfile whole.ts\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n",
        "dash.mp4": f'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{url}</BaseURL>',
        "sdp.mov": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    try:
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(FootageError, match=name):
                frame_io.open_footage(tmp_path / name)
        for name in (url, f"concat:{whole}|{whole}", f"file:{whole}", "pipe:0", "lavfi:testsrc", "data:video/mp4,AAAA"):
            with pytest.raises(FootageError, match="no file"):
                frame_io.open_footage(name)
        assert len(list(frame_io.open_footage(whole).frames([1]))) == 1
    finally:
        stop.set()
        thread.join()
        server.close()
    assert not calls


def test_names_that_look_like_protocols_are_files(shot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shot.write_movie(tmp_path / "a.mkv")
    (tmp_path / "a.mkv").rename(tmp_path / "concat:a.mkv")
    assert len(frame_io.open_footage("concat:a.mkv").numbers) == 5


@pytest.mark.parametrize("folder", ["..", "../other", "/tmp/elsewhere", "a/../../b", "~/../.."])
def test_a_job_file_does_not_choose_what_it_overwrites(tmp_path, folder):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "job.yaml").write_text(json.dumps({"footage": {"path": "a.mov"}, "output": {"folder": folder}}))
    if folder.startswith("~"):
        (jobs / "~").symlink_to("/")
    with pytest.raises(JobError, match="where the job file is"):
        read_job(jobs / "job.yaml")
    assert read_job(jobs / "job.yaml", str(tmp_path)).output.folder == str(tmp_path)


def test_a_report_does_not_lead_out_of_its_folder(tmp_path):
    frame_io.write_image(tmp_path / "secret.png", np.zeros((4, 4, 3), np.uint8))
    outside = str(tmp_path / "secret.png")
    for files in (["alpha/../../secret.png", "foreground/../../secret.png"], [outside, outside], [7], "alpha", [""]):
        report = {"fps": 24, "foreground_color_space": "srgb", "frames": [{"frame_number": 1, "files": files}]}
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/report.json").write_text(json.dumps(report))
        with pytest.raises(JobError):
            delivery.read_finished(tmp_path / "out")


@pytest.mark.parametrize("fps", ["NaN", "Infinity", "-24", "1e99", "1e999"])
def test_a_report_s_rate_is_one(tmp_path, fps):
    for name in ("alpha", "foreground"):
        (tmp_path / name).mkdir()
        frame_io.write_image(tmp_path / f"{name}/a.png", np.zeros((4, 4, 3), np.uint8))
    frame = {"frame_number": 1, "files": ["alpha/a.png", "foreground/a.png"]}
    report = json.dumps({"fps": 24, "foreground_color_space": "srgb", "frames": [frame]})
    (tmp_path / "report.json").write_text(report)
    assert delivery.read_finished(tmp_path).fps == 24
    for wrong in (report.replace("24", fps), report.replace("1,", "1e999,")):
        (tmp_path / "report.json").write_text(wrong)
        with pytest.raises(JobError, match="report.json"):
            delivery.read_finished(tmp_path)


LONG = "a" * 300  # file systems end at 255 bytes


@pytest.mark.parametrize("name", [f"{LONG}.png", f"{LONG}.mov", f"{LONG}/b.####.png", LONG * 20, "a\0b.png"])
def test_names_that_no_file_can_have(tmp_path, name):
    for open_file in (frame_io.open_footage, frame_io.open_plate):
        with pytest.raises(FootageError, match="no file"):
            open_file(tmp_path / name)
    with pytest.raises(CheckpointError, match="model file"):
        locate_model(tmp_path / name)


@pytest.mark.parametrize("folder", ["a\0b", "\ud800"])
def test_paths_in_a_job_file_that_no_file_system_can_hold(tmp_path, folder):
    for job in ({"footage": {"path": "a.png"}, "output": {"folder": folder}}, {"footage": {"path": folder}}):
        (tmp_path / "job.yaml").write_text(json.dumps(job))
        with pytest.raises(JobError, match="a path that a file system can hold"):
            read_job(tmp_path / "job.yaml")


def test_names_that_become_too_long(tmp_path):
    pixels, plate = np.zeros((32, 32, 3), np.uint8), tmp_path / f"{LONG[:250]}.png"  # with .coverage it is
    frame_io.write_image(tmp_path / "a.png", pixels)
    with pytest.raises(OutputError):
        frame_io.write_image(plate, pixels)
    (tmp_path / "a.png").rename(plate)
    job = Job(Source(str(plate)), PlateSource(str(plate)), Output(str(tmp_path / "out")))
    assert engine.run_job(job)["frames"] == 1
    with pytest.raises(OutputError, match="too long"):
        engine.run_job(replace(job, output=Output(str(tmp_path / LONG))))


@pytest.mark.parametrize("number", ["Infinity", "9" * 400, "9" * 5000, "[" * 100_000])
def test_what_lies_beside_a_plate_is_refused_in_words(tmp_path, number):
    (tmp_path / "p.motion.json").write_text(
        f'{{"width": {number}, "height": 4, "frames": {{"1": [1, 0, 0, 0, 1, 0, 0, 0, 1]}}}}'
    )
    with pytest.raises(PlateError, match=r"p\.motion\.json"):
        plate_files.read_motion(tmp_path / "p.png")
    (tmp_path / "track.json").write_text(f'{{"1": [1, 0, 0, 0, 1, 0, 0, 0, {number}]}}')
    with pytest.raises(JobError, match=r"track\.json"):
        plate_files.read_track(tmp_path / "track.json")


def test_job_files_that_are_no_files():
    with pytest.raises(JobError, match="no file"):
        read_job("/dev/zero")


RUNS_CODE = {
    *("eval", "exec", "os.system", "os.popen", "torch.jit.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "Unpickler"),
}


NEEDED = {
    "share.py": {"subprocess"},  # this very engine, once more for each device; see below
    "memory.py": {"ctypes"},  # the C library's own settings of its memory
}


def test_no_shell_no_pickle_no_network():
    """The engine imports nothing that runs commands, unpickles or opens connections."""
    banned = {"marshal", "shelve", "socket", "urllib", "http", "requests", "ftplib", "subprocess", "ctypes"}
    for path in sorted((ROOT / "core").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found = banned.intersection(name.partition(".")[0] for name in names)
            assert found <= NEEDED.get(str(path.relative_to(ROOT / "core")), set()), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in RUNS_CODE, f"{path}:{node.lineno}"
                if call == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"


def test_the_one_process_that_the_engine_starts_is_itself():
    tree = ast.parse((ROOT / "core/share.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func).startswith("subprocess.")]
    assert [ast.unparse(call.func) for call in calls] == ["subprocess.Popen"]
    assert ast.unparse(calls[0].args[0]) == "[sys.executable, '-m', 'core', 'worker']"
    assert "shell" not in {keyword.arg for keyword in calls[0].keywords}
