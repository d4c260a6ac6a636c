# SPDX-License-Identifier: GPL-3.0-or-later
"""Other sizes: OpenCV, where it takes over, gives what torch gives."""

import pytest
import torch
import torch.nn.functional as F

from core.models import scales

CASES = {
    "average, a third": lambda x: scales.average(x, 0.3),
    "average, two thirds": lambda x: scales.average(x, 0.66),
    "halved": scales.halved,
    "doubled": lambda x: scales.doubled(x, x.new_empty(1, 1, 2 * x.shape[2] - 1, 2 * x.shape[3])),
    "resized up": lambda x: scales.resized(x, x.new_empty(1, 1, 61, 90)),
    "resized down": lambda x: scales.resized(x, x.new_empty(1, 1, 11, 23)),
    "blurred": lambda x: scales.blurred(x, 5),
}


@pytest.mark.parametrize("change", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(1, 1, 24, 40), (1, 6, 23, 41), (2, 3, 25, 38), (3, 1, 24, 41)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opencv_gives_what_torch_gives(change, shape, layout, monkeypatch):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    assert scales._suits_opencv(x)
    found = change(x)
    assert found.stride(1) == 1 and found.stride(3) == shape[1]  # channels-last, if cropped
    monkeypatch.setattr(scales, "_suits_opencv", lambda x: False)
    expected = change(x)
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5


def test_gradients_features_and_tracers_are_torch_s():
    x = torch.rand(1, 3, 8, 8)
    assert scales._suits_opencv(x)
    assert not scales._suits_opencv(x.clone().requires_grad_())
    assert not scales._suits_opencv(x.bfloat16()) and not scales._suits_opencv(torch.rand(1, 16, 8, 8))
    seen = []
    with pytest.warns(DeprecationWarning, match="trace"):
        torch.jit.trace(lambda x: seen.append(scales._suits_opencv(x)) or scales.halved(x), x, check_trace=False)
    assert seen == [False]


@pytest.mark.parametrize("shape", [(1, 1, 9, 14), (2, 3, 6, 5)])
def test_the_largest_around(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(scales.largest(x), F.max_pool2d(x, 5, 1, 2))


def test_too_little_memory_for_opencv_is_torch_s_error(monkeypatch):
    """By which the engine steps down."""

    def starved(*arguments, **names):
        failure = scales.error("insufficient memory")
        failure.code = scales.Error.StsNoMem
        raise failure

    monkeypatch.setattr(scales, "resize", starved)
    with pytest.raises(torch.OutOfMemoryError, match="insufficient"):
        scales.halved(torch.rand(1, 3, 8, 8))
