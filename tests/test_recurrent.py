# SPDX-License-Identifier: GPL-3.0-or-later
"""The default network: equal to the published one where the plate is out of play, and ready to learn from a plate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.checkpoints import half_weights, load_model
from core.errors import CheckpointError, ShapeError
from core.models import recurrent
from core.models.clamping import clamp_unit
from core.models.detail import missed_detail
from core.models.mobilenetv3 import MobileNetV3Encoder
from core.models.recurrent import Look, PlateFeatures, RecurrentMatting
from core.models.refiner import SolvingRefiner, fuse_foreground, least_alpha, solve_alpha
from core.models.review import REGRESSION, SeeThrough, broadly_see_through, clear_foreground, plate_moments, relate
from core.models.scales import halved
from scripts.convert_rvm import find_onnx, load_onnx_weights

COARSE = ["753", "754"]  # the published graph's names for its foreground residual and alpha before the guided filter


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def published() -> onnxruntime.InferenceSession:
    graph = onnx.load(str(find_onnx()))
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in COARSE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def warm_started() -> RecurrentMatting:
    torch.manual_seed(0)  # what the file does not set is drawn: by some draws rounding grows tenfold
    model = RecurrentMatting().eval()
    load_onnx_weights(model, find_onnx())
    return model


@pytest.fixture(scope="module")
def model() -> RecurrentMatting:
    return warm_started()


def clip(height: int, width: int, frames: int = 3) -> Tensor:
    """(1, T, 3, H, W): a drawn figure that walks; the published network takes it for a person."""
    y = torch.arange(height).view(-1, 1) / height
    x = torch.arange(width).view(1, -1) / height
    images = []
    for t in range(frames):
        across = x - (0.5 + 0.03 * t) * width / height
        eyes = ((across.abs() - 0.05) ** 2 + (y - 0.28) ** 2) < 0.0002
        layers = [
            (across**2 / 0.02 + (y - 0.25) ** 2 / 0.03 < 1, (0.15, 0.1, 0.08)),  # hair
            ((across.abs() < 0.28 - 0.12 * (1 - y)) & (y > 0.48), (0.2, 0.2, 0.45)),  # body
            ((across.abs() < 0.05) & (y > 0.3), (0.8, 0.6, 0.5)),  # neck
            (across**2 / 0.012 + (y - 0.3) ** 2 / 0.022 < 1, (0.87, 0.67, 0.57)),  # head
            (eyes, (0.1, 0.1, 0.1)),
        ]
        image = torch.stack([0.4 + 0.3 * y + 0 * x, 0.6 - 0.2 * x + 0 * y, 0.7 - 0.2 * y + 0 * x])
        for mask, colour in layers:
            image = torch.where(mask, torch.tensor(colour).view(3, 1, 1), image)
        images.append(image)
    return torch.stack(images).unsqueeze(0)


def run_published(session: onnxruntime.InferenceSession, src: Tensor, ratio: float) -> list[list[np.ndarray]]:
    rec = [np.zeros((1, 1, 1, 1), np.float32)] * 4
    outputs = []
    for frame in src.unbind(1):
        feed = dict(zip(["r1i", "r2i", "r3i", "r4i"], rec, strict=True))
        feed |= {"src": frame.numpy(), "downsample_ratio": np.array([ratio], np.float32)}
        result = session.run(["fgr", "pha", "r1o", "r2o", "r3o", "r4o", *COARSE], feed)
        rec = result[2:6]
        outputs.append(result)
    return outputs


@pytest.fixture
def own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's own foreground, as the published one has it (`tests/test_foreground.py` is about the other)."""
    monkeypatch.setattr(recurrent, "extend_foreground", lambda fgr, *_: fgr)
    monkeypatch.setattr(recurrent, "missed_detail", lambda *images: torch.zeros_like(images[-1]))
    monkeypatch.setattr(RecurrentMatting, "_cleared", lambda *given: given[-2:])


@pytest.mark.parametrize(
    ("size", "ratio", "with_plate"),
    [
        ((160, 224), 0.5, False),
        ((173, 211), 0.6, False),
        ((203, 155), 0.375, False),
        ((96, 135), 1.0, False),
        ((96, 136), 1.0, True),
    ],
)
@pytest.mark.usefixtures("own_colours")
def test_parity_with_published(
    model: RecurrentMatting, published: Any, size: tuple[int, int], ratio: float, with_plate: bool
) -> None:
    src = clip(*size)
    plate = src.flip(-1) if with_plate else None
    output = model(src, plate, downsample_ratio=ratio)
    expected = run_published(published, src, ratio)
    for t, (fgr, pha, *_, residual, coarse) in enumerate(expected):
        if ratio == 1:  # the published graph filters even then
            pha, fgr = coarse.clip(0, 1), (residual + src[:, t].numpy()).clip(0, 1)
        assert pha.std() > 0.1  # the comparison says something
        np.testing.assert_allclose(output.pha[:, t], pha, atol=1e-4)
        np.testing.assert_allclose(output.fgr[:, t], fgr, atol=1e-4)
    for ours, theirs in zip(output.rec, expected[-1][2:6], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.usefixtures("own_colours")
def test_before_training_the_refiner_changes_nothing(model: RecurrentMatting) -> None:
    src = clip(160, 224, 1)[:, 0]
    full = model(src, src.flip(-1), downsample_ratio=0.5)
    half = F.interpolate(src, scale_factor=0.5, mode="bilinear")
    coarse = model(half, half.flip(-1))
    assert coarse.pha.std() > 0.1
    up = F.interpolate(coarse.pha, (160, 224), mode="bilinear")
    torch.testing.assert_close(full.pha, up, atol=1e-5, rtol=0)
    residual = F.interpolate(coarse.fgr - half, (160, 224), mode="bilinear")  # clamped, so equal but for the extremes
    assert ((full.fgr - (src + residual).clamp(0, 1)).abs() < 1e-5).float().mean() > 0.9


def test_only_what_is_expected_to_err_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "missed_detail", lambda *images: torch.zeros_like(images[-1]))
    model = perturbed()
    src = clip(160, 224, 1)[:, 0]
    static = model.encode_plate(src.flip(-1), 0.5)
    middle = float(model(src, static, None, 0.5).err.median())
    thresholds = (0, 1, middle)
    everywhere, nowhere, some = (_with_threshold(model, threshold)(src, static, None, 0.5) for threshold in thresholds)
    patches = F.interpolate(some.err, (40, 56), mode="bilinear") > middle
    expected = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert 0.05 < expected.float().mean() < 0.95
    assert not torch.equal(everywhere.pha, nowhere.pha)
    torch.testing.assert_close(some.pha[expected], everywhere.pha[expected])
    torch.testing.assert_close(some.pha[~expected], nowhere.pha[~expected])


def test_frames_of_the_coarse_size_are_refined_too() -> None:
    model = load_model()
    assert isinstance(model, RecurrentMatting)
    src, bgr, *_ = (F.interpolate(x, scale_factor=2) for x in pane())
    found, coarse = (_with_threshold(model, threshold)(src, bgr).pha for threshold in (0.02, 1))
    assert (found - coarse).abs().max() > 0.1


def test_a_gate_leads_from_the_coarse_to_the_solved_alpha() -> None:
    """With a right foreground and an open gate, any coarse alpha becomes the true one."""
    generator = torch.Generator().manual_seed(0)
    fgr, bgr = torch.tensor([0.9, 0.7, 0.1]).view(1, 3, 1, 1), torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1)
    true = torch.rand(1, 1, 64, 96, generator=generator)
    src = true * fgr + (1 - true) * bgr
    refiner = SolvingRefiner(0.02, 16 + 3).eval()
    refiner.predict.bias.data[:4] = 9.0  # tanh of it is 1
    hid = torch.cat([torch.ones(1, 3, 32, 48), torch.zeros(1, 16, 32, 48), fgr.expand(-1, -1, 32, 48)], dim=1)
    guides = [torch.full((1, 1, 32, 48), 0.3), torch.zeros(1, 3, 32, 48), torch.ones(1, 1, 32, 48), hid]
    with torch.inference_mode():
        pha, _, ref = refiner(src, bgr.expand_as(src), *guides)
        torch.testing.assert_close(pha, true, atol=5e-3, rtol=0)
        refiner.correct.bias.data[:] = 0.4  # a foreground that is corrected into a wrong one
        assert (refiner(src, bgr.expand_as(src), *guides)[0] - true).abs().mean() > 0.05
    assert ref.all()


@pytest.mark.parametrize("traceable", [False, True])
def test_alpha_is_solved_with_the_plate_in_the_subjects_shadow(traceable: bool) -> None:
    """The shadow is measured beside the subject, and its hair shows the plate as dark as that."""
    generator = torch.Generator().manual_seed(0)
    color = torch.tensor([0.9, 0.7, 0.1]).view(1, 3, 1, 1)
    plate = 0.4 + 0.4 * torch.rand(1, 3, 64, 96, generator=generator)
    light = torch.tensor([0.5, 0.6, 0.8]).view(1, 3, 1, 1)
    true = torch.rand(1, 1, 64, 96, generator=generator)
    true[..., :40], true[..., 64:] = 1, 0
    coarse, nothing = halved(true), torch.zeros(1, 1, 32, 48)
    src = torch.lerp(light * plate, color.expand_as(plate), true)
    src_sm, bgr_sm = halved(src), halved(plate)
    guides = PlateFeatures(plate[:, None], bgr_sm[:, None], (), ()), src_sm, torch.cat([color - src_sm, coarse], dim=1)
    hid = torch.zeros(1, 16, 32, 48)
    look = Look(src, *guides, nothing + 1, hid, None, None, (), (1, 3, 64, 96), 0.5)  # type: ignore[arg-type]
    refiner = SolvingRefiner(0.02, 16 + 3).eval()
    refiner.predict.bias.data[:4] = 9.0  # tanh of it is 1: alpha is the solved one
    refiner.traceable = traceable
    with torch.inference_mode():
        pha, _, _ = refiner(src, plate, *look.guides(traceable))
        torch.testing.assert_close(pha, true, atol=0.05, rtol=0)
        pha, residual, err, light, *features = look.guides(traceable)
        unlit = refiner(src, plate, pha, residual, err, torch.ones_like(light), *features)[0]
    assert (unlit - true)[..., 40:].abs().mean() > 0.1


def test_alpha_is_solved_by_the_colour_of_what_is_covered_nearby() -> None:
    red, blue = (torch.tensor(color).view(1, 3, 1, 1) for color in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]))
    pha = torch.linspace(2.5, -1.5, 96).clamp(0, 1).expand(1, 1, 64, 96)
    src = torch.lerp(blue, red, pha)
    believed = torch.where(pha > 0.5, red, src)  # at low alpha the network's colour is what it sees
    nothing = src.new_zeros(1, 1, 64, 96)
    coarse = torch.cat([believed - src, pha], dim=1)
    plate = PlateFeatures(*[blue.expand_as(src)[:, None]] * 2, (), ())
    look = Look(src, plate, src, coarse, nothing, nothing, None, None, (), (1, 3, 64, 96), 0.5)  # type: ignore[arg-type]
    guide = look.guides()[-1]
    barely = (pha > 0.05) & (pha < 0.4)
    solved, before = (solve_alpha(fgr, src, blue.expand_as(src))[0][:, None] for fgr in (guide, believed))
    assert (solved - pha)[barely].abs().mean() < 0.5 * (before - pha)[barely].abs().mean()


def test_inside_of_a_see_through_surface_alpha_is_not_the_refinements() -> None:
    generator = torch.Generator().manual_seed(0)
    src, bgr, fgr, color = torch.rand(4, 1, 3, 8, 8, generator=generator)
    refined, judged = torch.rand(2, 1, 1, 8, 8, generator=generator)
    share = torch.zeros(1, 1, 8, 8)
    share[..., 4:] = 1
    parts = torch.cat([color, torch.zeros_like(share), share], dim=1)
    pha, then = recurrent._clear(src, bgr, refined, fgr, judged, parts)
    torch.testing.assert_close(pha, torch.where(share > 0, judged, refined))
    torch.testing.assert_close(then, torch.where(share > 0, color, fgr))


@pytest.mark.parametrize(("own", "kept"), [(0.0, 0.0), (0.125 * 1.001, 0.5), (0.8, 1.0)])
def test_dense_hair_is_the_refinements(monkeypatch: pytest.MonkeyPatch, own: float, kept: float) -> None:
    """What looks like a broad transparent surface keeps its refined alpha where its detail is its own."""
    monkeypatch.setattr(recurrent, "broadly_see_through", torch.ones_like)
    monkeypatch.setattr(recurrent, "clear_foreground", lambda src, *_: (src, torch.full_like(src[:, :1], own)))
    src, bgr = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model = RecurrentMatting().eval()
    with torch.inference_mode():
        look = model.look(src, bgr, downsample_ratio=0.5)
        coarse = look.coarse.clone()
        coarse[:, 3:] = 0.5
        pha, _ = model._cleared(
            src, bgr, look.plate.bgr_sm[0], look._replace(coarse=coarse), torch.ones(1, 1, 64, 96), src
        )
    torch.testing.assert_close(pha, torch.full_like(pha, 0.5 + 0.5 * kept))


def test_the_compositing_equation_solved_for_alpha() -> None:
    generator = torch.Generator().manual_seed(0)
    fgr, bgr = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
    pha = torch.rand(2, 8, 8, generator=generator)
    src = torch.lerp(bgr, fgr, pha[:, None])
    alpha, length, astray = solve_alpha(fgr, src, bgr)
    far = length > 0.3
    assert 0.8 < far.float().mean() < 1
    torch.testing.assert_close(alpha[far], pha[far], atol=0.015, rtol=0)
    torch.testing.assert_close(length, (fgr - bgr).norm(dim=1), atol=1e-2, rtol=0)
    assert astray[far].max() < 0.02
    off = torch.linalg.cross(fgr - bgr, torch.ones(2, 3, 1, 1).expand_as(bgr), dim=1)  # a colour that is on no mixture
    torch.testing.assert_close(solve_alpha(fgr, src + 0.2 * off, bgr)[2], 0.2 * off.norm(dim=1), atol=0.02, rtol=0)


def test_no_foreground_explains_the_source_with_less_than_the_least_alpha() -> None:
    generator = torch.Generator().manual_seed(0)
    fgr, bgr = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
    pha = torch.rand(2, 8, 8, generator=generator)
    assert (least_alpha(torch.lerp(bgr, fgr, pha[:, None]), bgr) <= pha).all()
    for extreme, plate in ((1.0, 0.1), (0.0, 0.9)):  # white before a dark plate, black before a bright one
        bgr = torch.full_like(bgr, plate)
        found = least_alpha(torch.lerp(bgr, torch.full_like(bgr, extreme), pha[:, None]), bgr)
        torch.testing.assert_close(found, pha, atol=0.06, rtol=0)


def test_a_lifted_alpha_shows_what_no_foreground_nearby_explains() -> None:
    """A bright hair beside a dark subject: the solved alpha is below 0, the least one is right."""
    bgr, dark = torch.full((1, 3, 64, 96), 0.4), torch.full((1, 3, 32, 48), 0.1)
    hair = torch.zeros(1, 1, 64, 96)
    hair[..., 30:32, :] = 0.5
    refiner = SolvingRefiner(0.02, 16 + 3).eval()
    refiner.predict.bias.data[20:] = 9.0  # tanh of it is 1
    hid = torch.cat([torch.ones(1, 3, 32, 48), torch.zeros(1, 16, 32, 48), dark], dim=1)
    guides = [torch.zeros(1, 1, 32, 48), torch.zeros(1, 3, 32, 48), torch.ones(1, 1, 32, 48), hid]
    with torch.inference_mode():
        pha, _, _ = refiner(torch.lerp(bgr, torch.ones_like(bgr), hair), bgr, *guides)
    torch.testing.assert_close(pha, hair, atol=0.05, rtol=0)


@pytest.mark.parametrize(("factor", "steps"), [(2, 1), (4, 2), (8, 3)])
def test_from_afar_alpha_is_refined_in_steps_of_two(factor: int, steps: int) -> None:
    """What a step has settled stays as it is in the next one."""
    height, width = 88, 208  # half of the height is divided by 4, half of that is not
    true = (torch.arange(width) >= 99).float().expand(1, 1, height, width)
    plate, color = torch.full((1, 3, height, width), 0.2), torch.full((1, 3, height // factor, width // factor), 0.9)
    refiner = SolvingRefiner(0.02, 16 + 3).eval()
    refiner.predict.bias.data[:4] = 9.0  # tanh of it is 1: alpha is the solved one
    heights = []
    refiner.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[2]))
    coarse = torch.full_like(color[:, :1], 0.3), torch.zeros_like(color), torch.ones_like(color[:, :1])
    with torch.inference_mode():
        features = torch.ones_like(color), torch.zeros(1, 16, *color.shape[2:]), color
        pha, _, ref = refiner(torch.lerp(plate, torch.full_like(plate, 0.9), true), plate, *coarse, *features)
    sharp = torch.arange(width) != 99  # there the colour, too, is that of half the size
    torch.testing.assert_close(pha[..., sharp], true[..., sharp], atol=5e-3, rtol=0)
    assert heights == [88, 44, 24][:steps]  # 22, rounded up to patches
    refined = ref[0, 0].all(0).nonzero().flatten().tolist()
    assert refined == ([23, 24, 25] if steps > 1 else list(range(width // 4)))


@pytest.mark.parametrize(
    ("column", "alpha", "width", "found"),
    [(60, 0.0, 1, True), (130, 0.0, 1, False), (60, 0.5, 1, False), (60, 0.0, 40, False)],
    ids=["a hair beside the subject", "far from it", "matted already", "a shadow"],
)
def test_a_fine_difference_beside_the_subject_is_looked_at(column: int, alpha: float, width: int, found: bool) -> None:
    bgr = torch.full((1, 3, 96, 160), 0.5)
    src, pha = bgr.clone(), torch.zeros(1, 1, 96, 160)
    src[..., :40] = 0.2
    pha[..., :40] = 1.0
    src[..., column : column + width] = 0.35
    pha[..., column : column + width] = alpha
    missed = missed_detail(src, bgr, pha)
    assert missed.shape == pha.shape and bool(missed[..., 20:80, column + width // 2].any()) == found
    assert not missed[..., :40].any()


def test_a_foreground_is_fused_with_what_the_source_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    fgr, guess, bgr = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(3))
    pha = torch.rand(2, 1, 8, 8, generator=generator)
    src = torch.lerp(bgr, fgr, pha)
    torch.testing.assert_close(fuse_foreground(fgr, pha, src, bgr), fgr)  # nothing to mend
    fused = fuse_foreground(guess, pha, src, bgr)
    before, after = ((torch.lerp(bgr, f, pha) - src).abs() for f in (guess, fused))
    torch.testing.assert_close(after, before * (1 - pha**2))
    torch.testing.assert_close(fuse_foreground(guess, torch.ones_like(pha), src, bgr), src)


def _with_threshold(model: RecurrentMatting, threshold: float) -> RecurrentMatting:
    model.refiner.threshold = threshold
    return model


def test_parity_after_half_rounding(published: Any) -> None:
    model = warm_started()
    model.load_state_dict(half_weights(model.state_dict()))
    src = clip(160, 224)
    output = model(src, downsample_ratio=0.5)
    for t, (fgr, pha, *_) in enumerate(run_published(published, src, 0.5)):
        np.testing.assert_allclose(output.pha[:, t], pha, atol=5e-3)
        np.testing.assert_allclose(output.fgr[:, t], fgr, atol=5e-3)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    graph = onnx.load(str(find_onnx()))
    graph.graph.node.remove(next(node for node in graph.graph.node if node.op_type == "Conv"))
    onnx.save(graph, str(tmp_path / "short.onnx"))
    with pytest.raises(CheckpointError, match="82 convolutions"):
        load_onnx_weights(RecurrentMatting(), tmp_path / "short.onnx")


def perturbed() -> RecurrentMatting:
    """A network whose plate inputs matter, and its refiner, which has work everywhere."""
    model = warm_started()
    model.error.bias.zero_()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "plate" in name or name in ("error.weight", "refiner.predict.weight", "refiner.correct.weight"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def test_a_wrong_alpha_can_be_trained_away_where_it_is_clamped() -> None:
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    with torch.enable_grad():
        y = clamp_unit(x)
        (y - torch.tensor([1.0, 0.5, 1.0])).abs().sum().backward()  # type: ignore[no-untyped-call]
    assert y.tolist() == [0.0, 0.5, 1.0]
    assert x.grad is not None and x.grad.tolist() == pytest.approx([-0.1, 0.0, 0.0])


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_every_plate_parameter_matters(ratio: float) -> None:
    model = perturbed()
    model.plate_review.see_through.weigh[-1].bias[2] = 2.0  # which never takes away from alpha
    if ratio == 1:
        model.project.weight[3] *= 0.1  # else all is opaque or empty
        model.project.bias[3] = 0.5
    src = clip(96, 128, 2)
    with torch.enable_grad():
        output = model.train(ratio == 1)(src, src.flip(-1), downsample_ratio=ratio)
        (output.pha.sum() + output.err.sum()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()}
    # The filter is for shots without a plate; the refiner, which a training at ratio 1 leaves out, gives no gradient
    # back to the coarse alpha
    parts = ("filter.", "refiner." if ratio == 1 else "plate_review.see_through.")
    assert silent == {name for name, _ in model.named_parameters() if name.startswith(parts)}


@pytest.mark.parametrize(
    ("alpha", "colour", "found", "offset"),
    [(0.0, 0.5, 0.0, 0.0), (0.4, 0.0, 0.4, 0.0), (0.4, 0.7, 0.4, 0.28), (1.0, 0.7, 1.0, 0.7)],
    ids=["background", "shadow", "glass", "opaque"],
)
def test_how_the_source_follows_the_plate(alpha: float, colour: float, found: float, offset: float) -> None:
    noise = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 10, 12, generator=noise), scale_factor=8)  # what the widest still sees
    bgr = (torch.rand(1, 3, 80, 96, generator=noise) + coarse) / 2
    src = alpha * colour + (1 - alpha) * bgr
    relations = relate(src, bgr, plate_moments(bgr))
    assert [relation.shape for relation in relations] == [(1, 11, 160 // n, 192 // n) for n in (2, 4, 8, 16)]
    for relation in relations:
        assert (relation[:, :1] - found).abs().max() < 0.05  # the share that counts as blank
        assert (relation[:, 1:4] - offset).abs().max() < 0.05
        assert relation[:, 4].max() < 4 * 0.03  # nothing is left over
    blank = torch.full_like(bgr, 0.6)
    src = alpha * colour + (1 - alpha) * blank
    relation = relate(src, blank, plate_moments(blank))[0]
    assert relation[:, :1].abs().max() < 1e-3
    torch.testing.assert_close(relation[:, 1:4], src - blank, atol=1e-3, rtol=0)


def test_each_pixel_of_a_shadow_is_the_plates_times_a_number() -> None:
    """At the shadow's sharp edge, too; what has another colour is not, and in the dark nothing can be told."""
    bgr = 0.2 + 0.6 * torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    src = bgr.clone()
    src[..., 16:32] *= 0.4  # a shadow
    src[..., 32:] = src[..., 32:].flip(1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    number, left = (relate(src, bgr, plate_moments(bgr))[0][:, REGRESSION:] / 8).split(1, dim=1)
    assert number[..., :16].abs().max() < 1e-5 and (number[..., 16:32] + 0.6).abs().max() < 0.05
    assert left[..., :32].max() < 0.2 < 0.6 < left[..., 32:].mean()
    dark = relate(0.01 * src, 0.01 * bgr, plate_moments(0.01 * bgr))[0][:, REGRESSION:] / 8
    assert dark[:, :1].abs().max() < 0.05


def test_what_a_relation_leaves_over_is_what_the_plate_does_not_explain() -> None:
    noise = torch.Generator().manual_seed(0)
    bgr, own = (torch.rand(1, 3, 64, 80, generator=noise) for _ in range(2))
    relation = relate(own, bgr, plate_moments(bgr))[0]
    within = own.var(dim=(2, 3)).sum().sqrt()  # of the three channels
    assert abs(float(relation[:, 4].mean() / 4 - within)) < 0.1 * within
    assert abs(float(relation[:, 6].mean()) - 0.5) < 0.05  # both have as much texture


@pytest.mark.parametrize(("gate", "alpha"), [(0, 0.4), (3, 0.4), (4, 0.0), (5, 1.0)])
def test_the_review_goes_from_its_alpha_to_what_the_plate_shows(gate: int, alpha: float) -> None:
    """Behind a pane that lets through 0.6; the gates of the smallest and widest neighbourhood, of 0 and of 1."""
    model = warm_started()
    bgr = F.interpolate(torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0)), scale_factor=4)
    src = 0.4 * 0.5 + 0.6 * bgr
    with torch.no_grad():
        model.project.weight[3] = 0.0
        model.project.bias[3] = 0.7
        before = model(src, bgr)
        model.plate_review.gates.bias[gate] = 9.0  # wide open
        model.plate_review.gates.bias[6] = 0.5
    after = model(src, bgr)
    assert (before.pha - 0.7).abs().max() < 1e-6
    assert (after.pha - alpha).abs().mean() < 0.03
    torch.testing.assert_close(torch.logit(after.err), torch.logit(before.err) + 0.5, atol=1e-3, rtol=1e-3)


def test_the_review_sees_an_outline_from_afar() -> None:
    """What happens at a frame's left edge reaches the gates 150 pixels away: an outline tells glass from a shadow."""
    pha = torch.zeros(1, 1, 64, 384, requires_grad=True)
    relations = [torch.ones(1, 11, 32 // n, 192 // n) for n in (1, 2, 4, 8)]
    review = perturbed().plate_review
    with torch.enable_grad():
        corrected, doubt = review(torch.ones(1, 16, 64, 384), torch.ones(1, 3, 32, 192), relations, pha)
        (corrected[..., 150:].square().sum() + doubt[..., 150:].square().sum()).backward()
    assert pha.grad is not None and pha.grad[..., :4].any()


@pytest.mark.parametrize(("taken_for", "then"), [(0.2, 0.4), (0.7, 0.7)])
def test_what_texture_shows_of_a_pane_corrects_all_of_it(taken_for: float, then: float) -> None:
    """Texture is behind its left half, a blank wall behind the right; beside it is something opaque. Nothing sinks."""
    bgr = F.interpolate(torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)), scale_factor=4)
    bgr[..., 96:] = 0.5
    pha = torch.zeros(1, 1, 128, 192)
    pha[..., 24:104, 24:160] = taken_for
    pha[..., 170:] = 1.0
    alpha = torch.where(pha == taken_for, 0.4, pha)
    relation = relate(alpha * 0.6 + (1 - alpha) * bgr, bgr, plate_moments(bgr))[0]
    see_through, features = SeeThrough(16), torch.zeros(1, 16, 128, 192)
    assert not see_through(features, relation, pha).any()  # before any training
    see_through.weigh[-1].bias += torch.tensor([3.0, -6.0, 9.0])  # each place is trusted, as it is, altogether
    corrected = pha + see_through(features, relation, pha)
    assert (corrected - then)[..., 34:94, 34:86].abs().max() < 0.05
    assert (corrected - then)[..., 34:94, 106:150].abs().max() < 0.05
    torch.testing.assert_close(corrected[..., :20], pha[..., :20], rtol=0, atol=0)
    torch.testing.assert_close(corrected[..., 164:], pha[..., 164:], rtol=0, atol=0)


def pane(shadow: float = 1.0, moved: int = 0, printed: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source, plate, alpha and true foreground (1, ., 128, 192) of a pane of alpha 0.4 before a plate with texture."""
    bgr = F.interpolate(torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)), scale_factor=4)
    pha, fgr = torch.zeros(1, 1, 128, 192), torch.full((1, 3, 128, 192), 0.7)
    pha[..., 24:104, 24:160] = 0.4
    if printed:
        fgr[..., 60:64, 40:140] = 0.1
    return pha * fgr + (1 - pha) * shadow * bgr, bgr.roll(moved, -1), pha, fgr


INSIDE = (..., slice(36, 92), slice(36, 148))


@pytest.mark.parametrize("alpha", [0.01, 0.4, 1.0])
def test_only_inside_of_a_surface_and_only_where_it_is_see_through(alpha: float) -> None:
    share = broadly_see_through(alpha / 0.4 * pane()[2])
    assert (share[INSIDE] == (alpha == 0.4)).all()
    assert not share[..., :24].any() and not share[..., 160:].any()
    hair = torch.zeros(1, 1, 128, 192)
    hair[..., 60:66, :] = 0.5
    assert not broadly_see_through(hair).any()


def test_what_is_see_through_loses_the_plate_and_keeps_its_print() -> None:
    src, bgr, pha, fgr = pane(printed=True)
    color, own = clear_foreground(src, bgr, pha, src)
    found = color + own * (src - torch.lerp(bgr, color, pha)) / pha.clamp_min(0.4)
    assert (src - fgr)[INSIDE].abs().max() > 0.4
    assert (found - fgr)[INSIDE].abs().max() < 0.05
    assert (color - fgr)[..., 60:64, 60:120].mean() > 0.1  # by itself it is too soft for the print


@pytest.mark.parametrize(("shadow", "flaw", "colour"), [(1.0, 0.0, 0.7), (0.6, 0.0, 0.7), (1.0, 0.3, 0.5)])
def test_colour_is_solved_as_far_as_the_plate_is_right_around(shadow: float, flaw: float, colour: float) -> None:
    """As it is in a shadow that the plate lacks, too. Elsewhere the network's own (0.5 here) is as good as any."""
    src, bgr, pha, _ = pane(shadow)
    src[:, 0] = src[:, 0] + flaw * (pha[:, 0] == 0)
    found = clear_foreground(src, bgr, pha, torch.full((1, 3, 128, 192), 0.5))[0]
    assert abs(found[INSIDE].mean() - colour) < 0.03


def test_texture_of_a_plate_that_is_off_is_no_detail_of_the_subject() -> None:
    src, bgr, pha, fgr = pane(moved=1)
    assert clear_foreground(src, bgr, pha, fgr)[1][INSIDE].mean() < 0.01
    src, bgr, pha, fgr = pane(printed=True)
    assert clear_foreground(src, bgr, pha, fgr)[1][..., 60:64, 60:120].min() > 0.9


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_little_of_the_plate_is_in_the_colour_of_a_pane(ratio: float) -> None:
    size = 2 / ratio
    src, bgr, _, fgr = (F.interpolate(x, scale_factor=size) for x in pane())
    found = load_model()(src, bgr, None, ratio, looks=5).fgr
    inside = (..., slice(int(40 * size), int(88 * size)), slice(int(40 * size), int(144 * size)))
    texture = bgr[inside] - bgr[inside].mean()
    assert (found[inside] * texture).mean() < 0.15 * texture.square().mean()  # by the network alone 0.52 and 0.31
    assert (found - fgr)[inside].abs().mean() < 0.06  # 0.19 and 0.15


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_frame_by_frame_equals_at_once(ratio: float) -> None:
    model = perturbed()
    src, bgr = clip(93, 131, 3), clip(93, 131, 1).flip(-1)
    at_once = model(src, bgr, downsample_ratio=ratio)
    static = model.encode_plate(bgr[:, 0], ratio)
    moving = model(src, bgr.expand(-1, 3, -1, -1, -1), downsample_ratio=ratio)
    torch.testing.assert_close(moving.pha, at_once.pha)
    rec = None
    for t in range(3):
        output = model(src[:, t], static, rec, ratio)
        rec = output.rec
        for ours, whole in zip(output[:3], at_once[:3], strict=True):
            torch.testing.assert_close(ours, whole[:, t], atol=1e-5, rtol=1e-4)


def test_output_shapes_and_ranges() -> None:
    model = perturbed()
    src = clip(90, 122, 2)
    output = model(src, src.flip(-1), downsample_ratio=0.5)
    assert output.pha.shape == (1, 2, 1, 90, 122)
    assert output.fgr.shape == (1, 2, 3, 90, 122)
    assert output.err.shape == (1, 2, 1, 46, 62)
    assert [tuple(state.shape[1:]) for state in output.rec] == [(16, 23, 31), (20, 12, 16), (40, 6, 8), (64, 3, 4)]
    assert all(0 <= x.min() and x.max() <= 1 for x in output[:3])
    assert not torch.equal(output.pha, model(src, downsample_ratio=0.5).pha)


@pytest.mark.parametrize(
    "plate", [torch.zeros(1, 3, 64, 60), torch.zeros(1, 3, 3, 64, 64), torch.zeros(2, 1, 3, 64, 64)]
)
def test_a_plate_of_another_shape_is_refused(plate: Tensor) -> None:
    with pytest.raises(ShapeError, match="Bring the plate"):
        RecurrentMatting()(torch.zeros(1, 2, 3, 64, 64), plate)


def test_a_source_without_three_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match="RGB"):
        RecurrentMatting()(torch.zeros(1, 4, 64, 64))


def test_without_a_plate_the_blind_network_takes_over(published: Any) -> None:
    model = RecurrentMatting(blind=True).eval()
    assert model.blind is not None
    load_onnx_weights(model.blind, find_onnx())
    src = clip(96, 128, 1)
    (fgr, pha, *_) = run_published(published, src, 0.5)[0]
    np.testing.assert_allclose(model(src, downsample_ratio=0.5).pha[:, 0], pha, atol=1e-4)
    assert not np.allclose(model(src, src, downsample_ratio=0.5).pha[:, 0], pha, atol=1e-2)


@pytest.mark.parametrize("name", ["default", Path("default")])
def test_default_weights_load(name: str | Path) -> None:
    model = load_model(name)
    assert isinstance(model, RecurrentMatting)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Asked(TorchDispatchMode):
    """Notes the operators that would have to wait for a card's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "is_nonzero"):
            self.operators.append(name)
        return operator(*args, **(kwargs or {}))


def test_a_card_is_neither_asked_strip_by_strip_nor_sent_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model()
    src, bgr = (F.interpolate(x, scale_factor=2) for x in pane()[:2])
    plate = model.encode_plate(bgr, 0.5)
    with Asked() as asked:
        model(src, plate, None, 0.5)
    assert len(asked.operators) == 1  # whether anything is see-through
    monkeypatch.setattr(torch, "tensor", None)
    monkeypatch.setattr(Tensor, "new_tensor", None)
    model(src, plate, None, 0.5)


def test_depthwise_convolutions_are_trained_in_fp32():
    conv = MobileNetV3Encoder().blocks[1].filter
    x = torch.rand(1, conv.in_channels, 16, 16).bfloat16()
    exact = nn.Conv2d.forward(conv, x.float())
    with torch.autocast("cpu", torch.bfloat16):
        trained, run = conv.train()(x), conv.eval()(x)
    assert trained.dtype == run.dtype == torch.bfloat16
    assert torch.equal(trained, exact.bfloat16()) and not torch.equal(run, trained)
