# SPDX-License-Identifier: GPL-3.0-or-later
"""To the device and back: the order on a card, told by stand-ins for its streams; on a card where there is one."""

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core import engine
from core.checkpoints import load_model
from core.job import Job, Output, PlateSource, Source
from core.matting import ComingMatte, Matte, Matter
from core.models.fusing import cast_convolutions, fused
from core.transfer import CardTransfer, PlainTransfer, transfer_for

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")


@pytest.fixture
def order(monkeypatch):
    """What a card would be asked to do, in order; the work itself is the processor's."""
    asked: list[str] = []

    class Stream:
        made = 0

        def __init__(self, device=None):
            self.name = ("up", "down")[Stream.made] if device is not None else "network"
            Stream.made += device is not None

        def wait_stream(self, other):
            asked.append(f"{self.name} waits for {other.name}")

    class Event:
        def __init__(self, blocking):
            assert blocking

        def record(self, stream):
            asked.append(f"event on {stream.name}")

        def synchronize(self):
            asked.append("wait for event")

    @contextlib.contextmanager
    def on(stream):
        asked.append(f"on {stream.name}")
        yield

    network, empty = Stream(), torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: network)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append("set device"))
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **k: asked.append("pinned") or empty(*a, **k))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self.clone())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: asked.append(f"kept for {s.name}"))
    return asked


def test_what_goes_up_waits_for_nothing_and_the_network_for_it(order):
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 4, 3)
    tensor = CardTransfer(torch.device("cpu")).upload(pixels)
    assert np.array_equal(tensor.numpy(), pixels) and tensor.dtype == torch.uint16
    assert order == ["set device", "pinned", "on up", "network waits for up", "kept for network"]


def test_what_comes_down_waits_for_the_network_and_its_reader_for_it(order):
    transfer = CardTransfer(torch.device("cpu"))
    coming = transfer.download(torch.arange(6.0).reshape(2, 3).T)
    assert order[1:] == ["down waits for network", "on down", "pinned", "event on down", "kept for down"]
    assert np.array_equal(coming(), np.arange(6.0).reshape(2, 3).T) and order[-1] == "wait for event"


def test_the_processor_needs_none_of_it(order):
    transfer = transfer_for(torch.device("cpu"))
    assert isinstance(transfer, PlainTransfer)
    pixels = np.zeros((2, 2, 3), np.uint8)
    tensor = transfer.upload(pixels)
    pixels[0, 0, 0] = 7
    assert tensor[0, 0, 0] == 7 and transfer.download(tensor)()[0, 0, 0] == 7 and not order  # not even a copy


def test_a_matte_waits_for_what_it_is_asked_for_once():
    asked = []

    def coming(name, value):
        return lambda: asked.append(name) or np.full((2, 2), value, np.float32)

    matte = ComingMatte(coming("pha", 0.5), coming("fgr", 0.25), coming("err", 0.0))
    assert isinstance(matte, Matte) and not asked
    assert matte.fgr[0, 0] == 0.25 and matte.fgr is matte.fgr and asked == ["fgr"]
    assert matte.pha[0, 0] == 0.5 and asked == ["fgr", "pha"]
    with pytest.raises(AttributeError, match="ref"):
        _ = matte.ref


@pytest.mark.parametrize(("align", "asked"), [("off", []), ("auto", ["pha"] * 3)])
def test_nothing_waits_for_a_matte_but_its_writer_and_the_plates_layer(shot, tmp_path, monkeypatch, align, asked):
    """So that on a card the next frame starts while this one is on its way. The last two mattes lead no plate."""
    waited, getattr_ = [], ComingMatte.__getattr__

    def wait(self, name):
        if name in ("pha", "fgr", "err"):
            waited.append((threading.current_thread() is threading.main_thread(), name))
        return getattr_(self, name)

    monkeypatch.setattr(ComingMatte, "__getattr__", wait)
    footage, plate = shot.write_movie(tmp_path / "a.mkv"), shot.write_plate(tmp_path / "plate.png")
    plate = PlateSource(str(plate), align=align, match=False)
    job = Job(Source(str(footage)), plate, Output(str(tmp_path / "out")))
    monkeypatch.setattr(engine.OutputFolder, "write", lambda self, *_: None)
    engine.run_job(job)
    assert waited == [(False, name) for name in asked]


def test_convolutions_in_the_precision_that_autocast_gives_them_say_the_same():
    """Half precision stands in the way of nothing that autocast does not halve itself."""
    torch.manual_seed(0)
    src, bgr = torch.rand(1, 3, 96, 128), torch.rand(1, 3, 96, 128)
    cast, plain = fused(load_model()), fused(load_model())
    cast_convolutions(cast, torch.bfloat16)
    cast.refiner.threshold = plain.refiner.threshold = 0  # else a patch just at the threshold is refined in one only
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for plate in (bgr, None):
            one, other = (network(src, plate, None, 0.5) for network in (cast, plain))
            assert (one.pha - other.pha).abs().max() < 0.02 and (one.pha - other.pha).abs().mean() < 1e-3


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_there_and_back_on_a_card(dtype):
    transfer = transfer_for(torch.device("cuda:0"))
    pictures = [np.random.default_rng(i).random((270, 480, 3)) * 200 for i in range(12)]
    pictures = [picture.astype(dtype) for picture in pictures]
    coming = [transfer.download(transfer.upload(picture)) for picture in pictures]
    assert all(np.array_equal(wait(), picture) for wait, picture in zip(coming, pictures, strict=True))


@pytest.mark.gpu
@needs_card
def test_a_run_on_a_card_is_a_run_frame_by_frame(shot):
    """Frames that overlap are not mixed up: what is fetched late is what is fetched at once."""
    frames = [np.tile(shot.frame(i), (8, 8, 1)) for i in range(12)]
    plate = np.tile(shot.plate, (8, 8, 1))
    late, once = Matter(load_model(), "cuda:0"), Matter(load_model(), "cuda:0")
    mattes = [late.matte(frame, plate) for frame in frames]
    for frame, matte in zip(frames, mattes, strict=True):
        expected = once.matte(frame, plate)
        expected = expected.pha, expected.fgr, expected.err
        for got, want in zip((matte.pha, matte.fgr, matte.err), expected, strict=True):
            assert np.abs(got - want).max() < 0.01


@pytest.mark.gpu
@needs_card
def test_a_job_on_the_last_card_is_close_to_the_processor_s(shot, tmp_path):
    card = f"cuda:{torch.cuda.device_count() - 1}"
    footage, plate = shot.write_movie(tmp_path / "a.mkv", 60), shot.write_plate(tmp_path / "plate.png")
    job = Job(Source(str(footage)), PlateSource(str(plate)), Output(str(tmp_path / "cpu")), device="cpu")
    coverage = {}
    for device in ("cpu", card, f"{card},{card}"):
        folder = str(tmp_path / device.replace(":", "").replace(",", "-"))
        result = engine.run_job(replace(job, device=device, output=Output(folder)))
        assert result["frames"] == 60
        coverage[device] = [
            frame["coverage"] for frame in engine.json.loads(Path(result["report"]).read_text())["frames"]
        ]
    assert np.abs(np.array(coverage["cpu"]) - coverage[card]).max() < 0.01


@pytest.mark.gpu
@needs_card
def test_out_of_memory_on_a_card_ends_on_the_processor(shot, monkeypatch):
    frame, warnings = np.tile(shot.frame(0), (6, 6, 1)), []
    matter = Matter(load_model(), "cuda:0")
    matter.on_warning = warnings.append
    run = Matter._look

    def starved(self, source, *arguments):
        if source.device.type == "cuda":
            raise torch.OutOfMemoryError("out of memory")
        return run(self, source, *arguments)

    monkeypatch.setattr(Matter, "_look", starved)
    assert matter.matte(frame, None).pha.shape == frame.shape[:2]
    assert "going on with the CPU" in warnings[-1]
