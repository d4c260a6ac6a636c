# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays through a network."""

import threading

import numpy as np
import pytest
import torch

from core import matting
from core.checkpoints import load_model
from core.errors import DeviceError, ShapeError
from core.matting import (
    BLIND_ERROR,
    PLATE_GRAIN,
    SLIVER,
    Matter,
    _missed,
    choose_device,
    choose_precision,
    coarse_ratio,
)
from core.models import MattingBase, MattingRefine
from core.region import choose_box


@pytest.fixture
def matter():
    return Matter(load_model())


@pytest.fixture(scope="module")
def frames():
    random = np.random.default_rng(0)
    plate = random.integers(60, 120, (64, 96, 3), np.uint8)
    src = plate.copy()
    src[16:48, 30:60] = [230, 40, 200]
    return src, plate


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_input_type_gives_the_same_matte(frames, dtype):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    src, plate = ((picture * np.float64(scale)).astype(dtype) for picture in frames)
    matte, expected = (Matter(load_model(), precision="fp32").matte(*pair) for pair in ((src, plate), frames))
    assert matte.pha.shape == (64, 96) and matte.fgr.shape == (64, 96, 3) and matte.err.shape == (64, 96)
    assert np.abs(matte.pha - expected.pha).max() < 1e-5 and matte.pha.dtype == np.float32


def test_a_shots_first_frame_is_looked_at_as_often_as_if_it_lasted(frames, monkeypatch):
    matter = Matter(load_model(), precision="fp32")
    first = matter.matte(*frames)
    monkeypatch.setattr(matting, "LOOKS", 1)
    matter.reset()
    still = [matter.matte(*frames).pha for _ in range(5)]
    assert np.abs(first.pha - still[4]).max() < 1e-5 < np.abs(first.pha - still[0]).max()


def test_memory_stored_and_given_back(matter, frames):
    src, plate = frames
    matter.matte(src, plate)
    memory = matter.memory()
    second = matter.matte(src, plate)
    other = Matter(load_model())
    fresh = other.matte(src, plate)
    other.remember(memory)
    assert np.array_equal(other.matte(src, plate).fgr, second.fgr)
    assert not np.array_equal(fresh.fgr, second.fgr)
    matter.reset()
    assert np.array_equal(matter.matte(src, plate).fgr, fresh.fgr)


def test_where_the_plate_is_not_valid_the_network_judges_without(matter, frames):
    src, plate = frames
    nowhere = np.zeros(src.shape[:2], bool)
    blind = Matter(load_model()).matte(src, None)
    matte = matter.matte(src, plate, nowhere)
    assert np.array_equal(matte.pha, blind.pha) and matte.err.min() >= BLIND_ERROR
    left = nowhere.copy()
    left[:, :48] = True
    matte = Matter(load_model()).matte(src, plate, left)
    whole = Matter(load_model()).matte(src, plate)
    assert np.array_equal(matte.pha[:, :48], whole.pha[:, :48]) and matte.err[:, 48:].min() >= BLIND_ERROR
    assert np.array_equal(matte.pha[:, 70:], blind.pha[:, 70:])


def test_where_the_plate_is_valid_goes_up_as_pictures_do(matter, frames, monkeypatch):
    upload, sent = matter._transfer.upload, []
    monkeypatch.setattr(matter._transfer, "upload", lambda pixels: sent.append(pixels.dtype) or upload(pixels))
    matter.matte(*frames, np.eye(64, 96) > 0)
    assert np.dtype(bool) in sent


def test_slivers_beside_the_plate_are_judged_with_it(frames):
    src, plate = frames
    whole = Matter(load_model()).matte(src, plate)
    for width, runs_blind in ((SLIVER, False), (SLIVER + 1, True)):
        matter, valid = Matter(load_model()), np.ones(src.shape[:2], bool)
        valid[:, 96 - width :] = False
        valid[20 : 20 + width, 40:70] = False
        matte = matter.matte(src, plate, valid)
        assert any(name.startswith("blind") for name in matter.memory()) == runs_blind
        assert np.array_equal(matte.fgr, whole.fgr) != runs_blind
        assert matte.err[~valid].min() >= BLIND_ERROR


@pytest.mark.parametrize("runs_blind", [False, True])
def test_what_differs_only_beside_the_plate_is_no_subject(matter, runs_blind):
    """The plate's border, continued, is not what is there; a subject that stands across its edge stays."""
    pha, fgr, err = torch.zeros(1, 1, 64, 96), torch.ones(1, 3, 64, 96), torch.zeros(1, 1, 64, 96)
    pha[..., 10:20, 86:] = 0.7  # two pixels of it on the plate
    pha[..., 30:60, 60:] = 1
    valid = np.ones((64, 96), bool)
    valid[:, 88:] = False
    blind = (pha * 0, fgr, err) if runs_blind else None
    results = matter._deliver(lambda: (pha, fgr, err), (lambda: blind) if runs_blind else None, valid)
    after = results[0]()
    assert after[:26].max() == 0 and after[30:60, 60:88].min() == 1
    assert runs_blind or after[30:60, 88:].min() == 1


def test_what_differs_beside_the_plate_makes_no_larger_box(matter, monkeypatch):
    needed = []
    monkeypatch.setattr("core.matting.choose_box", lambda box, *rest: needed.append(box) or choose_box(box, *rest))
    plate = np.full((64, 96, 3), 90, np.uint8)
    src, valid = plate.copy(), np.ones((64, 96), bool)
    src[20:40, 20:40] = src[:, 70:] = 200
    valid[:, 70:] = False
    matter.matte(src, plate, valid)
    assert needed[0].right < 48


@pytest.mark.parametrize("shape", [(1, 2000), (2, 4000), (3000, 1)])
def test_frames_of_a_pixel_or_two_are_matted(matter, shape):
    src, plate = np.random.default_rng(0).integers(0, 255, (2, *shape, 3)).astype(np.uint8)
    assert matter.matte(src, None).pha.shape == matter.matte(src, plate, np.zeros(shape, bool)).pha.shape == shape


def test_a_subject_missed_without_a_plate_goes_on_beyond_it():
    pha, blind, inside = torch.zeros(3, 1, 1, 64, 96).unbind()
    inside[..., :48] = 1
    for top in (2, 22):  # two subjects half inside, and things that only lie outside
        pha[..., top : top + 12, 30:60] = 1
    pha[..., 44:56, 60:90] = 1
    blind[..., 2:14, 30:60] = 1
    where = _missed(pha, blind, inside)[0, 0]
    assert where[22:34, 30:60].min() == 1  # unknown to the blind network: the plate's judgement goes on
    assert where[2:14].max() == 0 and where[44:].max() == 0
    assert _missed(pha, blind, torch.zeros_like(inside)).max() == 0


@pytest.mark.parametrize("network", [MattingBase("mobilenetv2"), MattingRefine("mobilenetv2", 1 / 2)])
def test_the_paper_s_networks_take_any_size(network, frames):
    src, plate = (picture[:61, :90] for picture in frames)
    matte = Matter(network.eval()).matte(np.ascontiguousarray(src), np.ascontiguousarray(plate))
    assert matte.pha.shape == (61, 90) and matte.err.shape == (61, 90)
    with pytest.raises(ShapeError, match="clean plate"):
        Matter(network).matte(src, None)


def test_the_paper_s_network_is_set_by_the_frame_s_size(frames):
    network = MattingRefine("mobilenetv2").eval()
    matter = Matter(network)
    matter.matte(*frames)
    pixels = round(80_000 * 64 * 96 / (1920 * 1080))
    assert (matter.model.backbone_scale, matter.model.refiner.sample_pixels) == (0.5, pixels)
    matter = Matter(network, detail=0.25, refine_pixels=160)
    matter.matte(*frames)
    assert (matter.model.backbone_scale, matter.model.refiner.sample_pixels) == (0.25, 160)


def test_another_size_of_plate(matter, frames):
    src, plate = frames
    with pytest.raises(ShapeError, match="Scale"):
        matter.matte(src, plate[:32])


def test_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="tpu"):
        choose_device("tpu")


def test_upright_and_square_frames_are_looked_at_with_as_many_pixels():
    assert coarse_ratio(1080, 1920) == coarse_ratio(1920, 1080) == pytest.approx(1 / 3)
    assert coarse_ratio(960, 960) == pytest.approx(0.5)
    assert coarse_ratio(360, 480) == 1
    assert coarse_ratio(1080, 1920, blind=True) == coarse_ratio(1920, 1920, blind=True) == 512 / 1920


def test_out_of_memory_takes_half_the_coarse_size_then_gives_up_in_words(matter, frames, monkeypatch):
    src, plate = (np.tile(picture, (9, 12, 1)) for picture in frames)
    ratios, warnings = [], []
    run = Matter._look

    def starved(self, source, plate, rec, ratio, looks):
        ratios.append(ratio)
        if len(ratios) < 2:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, source, plate, rec, ratio, looks)

    matter.on_warning = warnings.append
    monkeypatch.setattr(Matter, "_look", starved)
    assert matter.matte(src, plate).pha.shape == (576, 1152)
    assert ratios == [coarse_ratio(576, 1152), coarse_ratio(576, 1152) / 2] and "half the coarse size" in warnings[0]

    def always(self, *arguments):
        raise torch.OutOfMemoryError("tried to allocate 7 GB")

    monkeypatch.setattr(Matter, "_look", always)
    with pytest.raises(DeviceError, match="7 GB"):
        matter.matte(src, plate)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_in_other_words_and_a_network_that_is_too_large(frames, monkeypatch, words):
    matter, model, run, starved = Matter(load_model()), load_model(), Matter._look, [True]

    def starved_once(self, *arguments):
        if starved and starved.pop():
            raise RuntimeError(words)
        return run(self, *arguments)

    def too_large(self, *arguments, **options):
        raise RuntimeError(words)

    monkeypatch.setattr(Matter, "_look", starved_once)
    matter.matte(np.tile(frames[0], (1, 12, 1)), None)
    assert matter.stepped_down
    monkeypatch.setattr(torch.nn.Module, "to", too_large)
    with pytest.raises(DeviceError, match=words.splitlines()[0][:30]):
        Matter(model)


def test_out_of_memory_without_a_plate_takes_half_of_that_size(matter, frames, monkeypatch):
    src, run, starved = np.tile(frames[0], (1, 12, 1)), Matter._look, [True]

    def starved_once(self, *arguments):
        if starved and starved.pop():
            raise torch.OutOfMemoryError("out of memory")
        return run(self, *arguments)

    monkeypatch.setattr(Matter, "_look", starved_once)
    matter.matte(src, None)
    assert matter.detail == 256 / 1152


@pytest.mark.parametrize(
    ("able", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)],
)
def test_processors_that_compute_in_bf16_do(able, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_precision("auto", torch.device("cpu")) == dtype
    assert choose_precision("auto", torch.device("cuda")) == torch.float16
    assert choose_precision("fp32", torch.device("cuda")) == torch.float32
    assert Matter(load_model(), "cpu").dtype == dtype
    assert Matter(load_model(), "cpu", "fp32").dtype == torch.float32
    assert Matter(MattingRefine("mobilenetv2").eval(), "cpu").dtype == torch.float32  # whose outputs are the published


def test_bf16_gives_nearly_the_same(frames):
    src, plate = frames
    full, half = (Matter(load_model(), "cpu", precision).matte(src, plate) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(full.pha - half.pha).mean() < 0.5e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
def test_half_precision_on_cuda_is_close_to_full(frames):
    src, plate = frames
    full = Matter(load_model(), "cpu").matte(src, plate)
    half = Matter(load_model(), "cuda").matte(src, plate)
    assert np.abs(full.pha - half.pha).mean() < 0.5e-3


def test_the_plate_s_grain_is_the_same_every_time(frames):
    """The network is given a plate with noise, whatever the plate's own, and nothing flickers by it."""
    src, plate = frames
    first, second = (Matter(load_model()).matte(src, plate.copy()).fgr for _ in range(2))
    assert np.array_equal(first, second)
    seen = []
    matter = Matter(load_model())
    encode = matter.model.encode_plate
    matter.model.encode_plate = lambda bgr, ratio: seen.append(bgr) or encode(bgr, ratio)
    matter.matte(255 - plate, plate)  # which differs everywhere
    grain = seen[0][0].permute(1, 2, 0).numpy() - plate / 255
    assert abs(grain.std() - PLATE_GRAIN) < 0.001 and abs(grain.mean()) < 0.001


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_frame_is_looked_at_while_the_one_before_is_finished(frames, monkeypatch, two_threads):
    """And their mattes are those of one after the other."""
    src, plate = frames
    shot = [np.roll(src, 3 * i, axis=1) for i in range(3)]
    alone = Matter(load_model())
    torch.set_num_threads(1)  # with more, sums are rounded otherwise
    expected = [alone.matte(frame, plate) for frame in shot]
    torch.set_num_threads(2)
    looked, look, finish = [threading.Event() for _ in shot], Matter._look, Matter._finish
    looks, finishes = iter(looked), iter([*looked[1:], looked[-1]])

    def note(self, *arguments):
        found = look(self, *arguments)
        next(looks).set()
        return found

    def wait(self, seen):
        assert next(finishes).wait(60), "the next frame waits for this one's end"
        return finish(self, seen)

    monkeypatch.setattr(Matter, "_look", note)
    monkeypatch.setattr(Matter, "_finish", wait)
    matter = Matter(load_model())
    with matter.overlapping():
        found = [matter.matte(frame, plate) for frame in shot]
    assert torch.get_num_threads() == 2
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.pha, other.pha) and np.array_equal(one.fgr, other.fgr)


def test_too_little_memory_for_a_frame_s_end_is_said_in_words(matter, frames, monkeypatch, two_threads):
    def starved(self, seen):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 GB")

    monkeypatch.setattr(Matter, "_finish", starved)
    with matter.overlapping():
        matte = matter.matte(*frames)
    with pytest.raises(DeviceError, match="7 GB"):
        _ = matte.pha


def test_a_look_that_fails_beside_a_frame_s_end_is_tried_again_alone(matter, frames, monkeypatch, two_threads):
    """With less memory taken by the other, before anything is given up."""
    look, finish, begun, failed = Matter._look, Matter._finish, threading.Event(), threading.Event()

    def starved(self, *arguments):
        if begun.is_set() and not failed.is_set():
            failed.set()
            raise torch.OutOfMemoryError("out of memory")
        return look(self, *arguments)

    def wait(self, seen):
        begun.set()
        assert failed.wait(60)
        return finish(self, seen)

    monkeypatch.setattr(Matter, "_look", starved)
    monkeypatch.setattr(Matter, "_finish", wait)
    with matter.overlapping():
        first = matter.matte(*frames)
        assert begun.wait(60)
        second = matter.matte(*frames)
    assert first.pha.shape == second.pha.shape and not matter.stepped_down
