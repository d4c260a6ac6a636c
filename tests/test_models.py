# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's networks against a plain restatement of their published definition, and numbers worked by hand."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import ShapeError
from core.models import MattingBase, MattingRefine
from core.models.fusing import fused
from core.models.patches import (
    cut_padded_windows,
    cut_upsampled_windows,
    cut_windows,
    put_tiles,
    take_tiles,
    upsampling_taps,
)
from core.models.refiner import Refiner
from core.models.scales import upsampled
from tests.reference import published

torch.set_num_threads(1)
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shuffle_statistics(model, seed=0):
    """Give batch norms something to do, and centre the outputs so that clamping does not hide differences."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.3, 0.7, generator=generator)  # deep networks stay within bounds
            module.bias.data.normal_(0, 0.1, generator=generator)
    model.decoder.conv4.bias.data[:5] = 0.5
    if isinstance(model, MattingRefine):
        model.refiner.conv4.bias.data[0] = 0.5
    return model.eval()


def pair(height, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(batch, 3, height, width, generator=generator) for _ in range(2))


def assert_equal(outputs, expected):
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.shape == reference.shape
        torch.testing.assert_close(output, reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("backbone", ["mobilenetv2", "resnet50", "resnet101"])
def test_base_equals_the_published_definition(backbone):
    model = shuffle_statistics(MattingBase(backbone))
    src, bgr = pair(50, 38, batch=2)
    with torch.inference_mode():
        outputs = model(src, bgr)
        assert_equal(outputs, published.matting_base(model.state_dict(), backbone, src, bgr))
    assert outputs[0].std() > 0.01  # not all clamped


@pytest.mark.parametrize("mode", ["sampling", "thresholding", "full"])
@pytest.mark.parametrize("kernel_size", [3, 1])
@pytest.mark.parametrize(("backbone", "scale", "size"), [
    ("mobilenetv2", 1 / 4, (108, 132)),
    ("mobilenetv2", 1 / 2, (100, 76)),
    ("mobilenetv2", 1 / 8, (136, 120)),
    ("mobilenetv2", 0.3, (92, 60)),
    ("resnet50", 1 / 4, (76, 52)),
])  # fmt: skip
def test_refine_equals_the_published_definition(backbone, scale, size, mode, kernel_size):
    model = shuffle_statistics(MattingRefine(backbone, scale, mode, 1600, refine_kernel_size=kernel_size))
    src, bgr = pair(*size, batch=2)
    with torch.inference_mode():
        model.refiner.threshold = threshold = float(model(src, bgr)[4].median())
        outputs = model(src, bgr)
        expected = published.matting_refine(model.state_dict(), backbone, src, bgr, scale, mode, 1600, threshold)
        assert_equal(outputs, expected)
    assert 0 < outputs[5].mean() < 1 or mode == "full"


def test_resnet101_refines_as_published():
    model = shuffle_statistics(MattingRefine("resnet101"))
    src, bgr = pair(52, 44)
    with torch.inference_mode():
        expected = published.matting_refine(
            model.state_dict(), "resnet101", src, bgr, refine_sample_pixels=13 * 11 * 16
        )
        assert_equal(model(src, bgr), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel_size", [3, 1])
@pytest.mark.parametrize("spread", ["ring", "block", "corner", "single", "none", "all"])
def test_refiner_equals_the_published_definition_wherever_the_error_is(spread, kernel_size, layout):
    refiner = Refiner("thresholding", 0, 0.5, kernel_size).eval()
    src, bgr = (image.contiguous(memory_format=layout) for image in pair(124, 180, batch=2))
    pha, fgr, hid = torch.rand(2, 1, 31, 45), torch.randn(2, 3, 31, 45), torch.rand(2, 32, 31, 45)
    err = torch.zeros(2, 1, 31, 45)
    y, x = torch.meshgrid(torch.arange(31) - 15, torch.arange(45) - 22, indexing="ij")
    distance = (y**2 + x**2).sqrt()
    where = {
        "ring": (distance > 10) & (distance < 13),
        "block": distance < 9,
        "corner": (y > 10) & (x > 17),
        "single": (y == 0) & (x == 0),
        "none": distance < 0,
        "all": distance >= 0,
    }[spread]
    err[1, 0][where] = 1.0
    state = {f"refiner.{key}": value for key, value in refiner.state_dict().items()}
    inputs = (src, bgr, pha, fgr, err, hid)
    with torch.inference_mode():
        expected = published.refine(published.Weights(state, "refiner."), *inputs, "thresholding", 0, 0.5, True)
        outputs = refiner(*inputs)
        assert_equal(outputs, expected)
        side, _ = refiner._tile(outputs[2])
    shared = spread in ("ring", "block", "corner", "all") and kernel_size == 3
    assert (side > 1) == shared  # neighbours read their margins once


def test_nothing_is_refined_where_no_error_is_expected():
    refiner = Refiner("sampling", 16 * 1000, 0.1).eval()
    pha = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        out, _, ref = refiner(
            *pair(32, 32), pha, torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8), torch.rand(1, 32, 8, 8)
        )
    assert ref.sum() == 0
    torch.testing.assert_close(out, F.interpolate(pha, (32, 32), mode="bilinear", align_corners=False))


def test_sampling_takes_the_worst_patches_and_no_more_than_there_are():
    err = torch.tensor([0.0, 0.1, 0.4, 0.3, 0.2, 0.0]).view(1, 1, 2, 3)
    assert Refiner("sampling", 2 * 16, 0.1)._select(err).flatten().tolist() == [0, 0, 1, 1, 0, 0]
    assert Refiner("sampling", 99 * 16, 0.1)._select(err).flatten().tolist() == [0, 1, 1, 1, 1, 0]
    assert Refiner("sampling", 99 * 16, 0.1, prevent_oversampling=False)._select(err).sum() == 6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_windows_are_those_of_the_padded_image(layout):
    image = pair(20, 28, batch=2)[0].contiguous(memory_format=layout)
    within = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 3, 8, 4]), torch.tensor([0, 5, 16, 16])
    beyond = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([-6, 3, 14, 10, -6]), torch.tensor([-6, 5, 22, -2, 22])
    padded = F.pad(image, [12] * 4)
    for cut, (b, y, x) in ((cut_windows, within), (cut_padded_windows, within), (cut_padded_windows, beyond)):
        windows = cut(image, b, y, x, 12)
        assert windows.shape == (len(b), 3, 12, 12)
        for window, frame, top, left in zip(windows, b, y + 12, x + 12, strict=True):
            assert torch.equal(window, padded[frame, :, top : top + 12, left : left + 12])


def test_upsampled_windows_are_those_of_the_upsampled_features():
    features = torch.rand(2, 5, 7, 9)
    upsampled = F.pad(F.interpolate(features, (30, 37), mode="bilinear", align_corners=False), [3, 8, 3, 8])
    b, y, x = torch.tensor([1, 0, 1]), torch.tensor([0, 12, 33]), torch.tensor([0, 20, 37])
    features = features.permute(0, 2, 3, 1).contiguous()
    taps = upsampling_taps(features, 30, 37, 8, before=3)
    for traceable in (False, True):
        windows = cut_upsampled_windows(features, taps, b, y, x, 8, traceable).permute(0, 3, 1, 2)
        for window, frame, top, left in zip(windows, b, y, x, strict=True):
            torch.testing.assert_close(window, upsampled[frame, :, top : top + 8, left : left + 8])


@pytest.mark.parametrize("traceable", [False, True])
def test_frames_are_upsampled_and_tiled(traceable):
    image = torch.rand(2, 3, 7, 9)
    frame = upsampled(image, 30, 37, 8, traceable)
    assert frame.shape == (2, 32, 40, 3) and frame.is_contiguous()
    expected = F.interpolate(image, (30, 37), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    torch.testing.assert_close(frame[:, :30, :37], expected, atol=1e-5, rtol=0)
    frame[:, 30:] = frame[:, :, 37:] = 0.5  # what lies behind is anything
    b, i, j = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 3]), torch.tensor([4, 2, 0])
    tiles = take_tiles(frame, b, i, j, 8)
    assert torch.equal(tiles[1], frame[1, :8, 16:24])
    wanted = frame.clone()
    wanted[0, 24:, 32:], wanted[1, :8, 16:24], wanted[1, 24:, :8] = tiles + 1
    assert torch.equal(put_tiles(frame, tiles + 1, b, i, j, traceable), wanted)


def test_fused_model_gives_the_same_without_batch_norms():
    model = shuffle_statistics(MattingRefine("mobilenetv2", refine_mode="thresholding", refine_threshold=0.5))
    lean = fused(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in lean.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    src, bgr = pair(108, 132)
    with torch.inference_mode():
        assert_equal(lean(src, bgr), model(src, bgr))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_stays_close(autocast):
    model = fused(shuffle_statistics(MattingRefine("mobilenetv2", refine_sample_pixels=10**6)))
    src, bgr = pair(108, 132)
    with torch.inference_mode():
        expected = model(src, bgr)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = (model if autocast else model.bfloat16())(src, bgr)
    for output, reference in zip(outputs[:2], expected, strict=False):
        assert output.dtype == torch.float32
        assert 0 < (output - reference).abs().mean() < 1e-3  # of random weights; clamping hides less than trained ones'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
@pytest.mark.parametrize("half", [False, True])
def test_a_card_gives_the_same(half, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = fused(shuffle_statistics(MattingRefine("mobilenetv2", refine_sample_pixels=10**6)))
    src, bgr = pair(108, 132)
    with torch.inference_mode():
        expected = model(src, bgr)
        outputs = (model.half() if half else model).cuda()(src.cuda(), bgr.cuda())
    for output, reference in zip(outputs, expected, strict=True):
        assert (output.cpu() - reference).abs().mean() < (5e-4 if half else 1e-6)


def test_every_weight_learns():
    model = shuffle_statistics(MattingRefine("mobilenetv2", refine_sample_pixels=3200)).train()
    src, bgr = pair(64, 80, batch=2)
    pha, fgr, pha_sm, fgr_sm, err_sm, _ = model(src, bgr)
    sum(output.square().mean() for output in (pha, fgr, pha_sm, fgr_sm, err_sm)).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_settings_that_suit_a_frame():
    """The paper's at HD and 4K, one rule between and beyond; what the network was made with, or is told, goes above."""
    model = MattingRefine("mobilenetv2")
    found = []
    for size in ((1080, 1920), (2160, 3840), (3840, 2160), (1440, 2560), (480, 640)):
        model.suit(*size)
        found.append((round(model.backbone_scale, 5), model.refiner.sample_pixels))
    assert found == [(0.25, 80_000), (0.125, 320_000), (0.125, 320_000), (0.1875, 142_222), (0.5, 11_852)]
    model.suit(1080, 1920, 0.9, 123)
    assert (model.backbone_scale, model.refiner.sample_pixels) == (0.5, 123)
    model = MattingRefine("mobilenetv2", 1 / 3, refine_sample_pixels=0)
    model.suit(8, 12, 1e-6)
    assert model.backbone_scale == 1 / 2  # of which a base network can be made
    model.suit(1080, 1920, 1e-6)
    assert 0 < 1080 * model.backbone_scale <= 5
    model.suit(2160, 3840)
    assert (model.backbone_scale, model.refiner.sample_pixels) == (1 / 3, 0)


def test_inputs_that_do_not_fit_are_refused_in_words():
    src, bgr = pair(32, 48)
    model = MattingRefine("mobilenetv2").eval()
    with pytest.raises(ShapeError, match=r"plate of the source's shape \[1, 3, 32, 48\]; got \[1, 3, 32, 44\]"):
        model(src, bgr[..., :44])
    with pytest.raises(ShapeError, match="divide by 4; got 46 x 32 pixels"):
        model(src[..., :46], bgr[..., :46])
    with pytest.raises(ShapeError, match="batch of RGB"):
        model(src[:, :1], bgr[:, :1])
    with pytest.raises(ShapeError, match="batch of RGB"):
        MattingBase("mobilenetv2")(src[0], bgr[0])


@pytest.mark.parametrize("arguments", [
    {"backbone": "vgg16"},
    {"backbone": "mobilenetv2", "backbone_scale": 0.75},
    {"backbone": "mobilenetv2", "refine_mode": "everything"},
    {"backbone": "mobilenetv2", "refine_kernel_size": 5},
])  # fmt: skip
def test_settings_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError, match=str(list(arguments.values())[-1])):
        MattingRefine(**arguments)
