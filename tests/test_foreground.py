# SPDX-License-Identifier: GPL-3.0-or-later
"""What is barely covered takes its colour from what is covered nearby, the plate there its light from beside it."""

import pytest
import torch

from core.models.foreground import extend_foreground, extend_light

RED = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
BLUE = torch.tensor([0.1, 0.2, 0.9]).view(1, 3, 1, 1)


def edge(width=96):
    """Red on the left, then a rim of alpha 0.2 that shows the blue behind it, then nothing."""
    pha = torch.zeros(1, 1, 64, width)
    pha[..., :40] = 1
    pha[..., 40:43] = 0.2
    return torch.where(pha == 1, RED, BLUE), pha


@pytest.mark.parametrize("traceable", [False, True])
def test_the_old_background_leaves_what_is_barely_covered(traceable):
    fgr, pha = edge()
    found = extend_foreground(fgr, pha, traceable)
    assert (found - RED)[..., 40:46].abs().max() < 0.4  # was 0.8, and goes on beyond the edge


def test_what_is_opaque_keeps_its_colour():
    fgr, pha = edge()
    fgr = fgr + 0.1 * torch.rand(fgr.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(extend_foreground(fgr, pha)[..., :40], fgr[..., :40])


def test_what_is_thin_all_over_keeps_its_colour_and_so_does_the_empty():
    pha = torch.zeros(1, 1, 64, 320)
    pha[..., :64] = 0.1
    found = extend_foreground(BLUE.expand(1, 3, 64, 320), pha)
    assert (found - BLUE)[..., :60].abs().max() < 0.01
    assert (found - BLUE)[..., 200:].abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (61, 90)])
def test_any_size(size):
    fgr, pha = torch.rand(2, 3, *size), torch.rand(2, 1, *size)
    found = extend_foreground(fgr, pha)
    assert found.shape == fgr.shape and 0 <= found.min() and found.max() <= 1 + 1e-6
    light = extend_light(fgr, torch.rand(2, 3, *size), pha)
    assert light.shape == fgr.shape and 0.1 <= light.min() and light.max() <= 1.5


def test_the_light_behind_an_edge_is_that_beside_it():
    fgr, pha = edge()
    shaded = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    found = extend_light(torch.where(pha > 0, fgr, shaded * BLUE), BLUE.expand_as(fgr), pha)
    assert (found - shaded)[..., 41:].abs().max() < 0.01  # from under the rim on


def test_without_a_shadow_or_a_plate_in_sight_the_light_is_the_plates():
    fgr, pha = edge()
    assert torch.equal(extend_light(BLUE.expand_as(fgr), BLUE.expand_as(fgr), pha), torch.ones_like(fgr))
    assert torch.equal(extend_light(fgr, BLUE.expand_as(fgr), torch.ones_like(pha)), torch.ones_like(fgr))
