# SPDX-License-Identifier: GPL-3.0-or-later
"""Training data: the split, the pool, augmentations and composites by hand-worked numbers, clips, pairs, cases."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from core.data import ClipDataset, ImagePairDataset, Mix, procedural
from core.data import augmentation as aug
from core.data.compositing import Layer, compose, compose_in_light, over, place, spilled
from core.data.pairs import find_pictures, read_picture
from core.data.pool import Pool, extend_colors, make_pyramid, read_pixels
from core.data.split import family, split_of
from core.errors import FootageError
from core.frame_io import write_exr
from scripts import fetch_data, make_cases

# Nothing but composition: whatever is named here happens in no clip.
CLEAN = {
    name: 0.0
    for name in (
        "no_plate no_subject ghost moving_camera wrong_plate misaligned drift refocused shadow light_change breeze "
        "pristine in_linear_light dark_scene bright_scene compressed sharpened noise flicker soft_lens"
    ).split()
} | {"exact_plate": 1.0}


def disc(size: int, color: tuple[int, int, int], hidden: int = 0) -> np.ndarray:
    """A soft-edged disc, straight BGRA, with `hidden` as its colour where nothing shows."""
    y, x = np.mgrid[:size, :size]
    alpha = np.clip(0.45 * size - np.hypot(x - size / 2, y - size / 2), 0, 1)
    image = np.full((size, size, 4), hidden, np.uint8)
    image[alpha > 0, :3] = color
    image[..., 3] = (255 * alpha).round()
    return image


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of one disc of each kind, one moving one, and two photographs of noise."""
    root = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(1)
    for split in ("train", "valid", "test"):
        for number, kind in enumerate(("people", "animals", "objects", "rendered", "stamps")):
            for copy in range(2):
                path = (
                    root
                    / split
                    / kind
                    / f"{('person', 'animal', 'emoji', 'hair', 'plants_trees-birch')[number]}-{copy}.png"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), disc(200 + 40 * number, (40 * number, 200 - 40 * number, 90)))
        for frame in range(3):
            path = root / split / "rendered_clips" / "turn" / f"{frame:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), disc(180 + 10 * frame, (10, 10, 240)))
        for number in range(2):
            path = root / split / "backgrounds" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (400, 300)))
    return root


# the split


def test_variants_of_one_object_stay_on_one_side():
    assert (
        family("animals_bovines-gnu-stand") == family("animals_bovines-gnu-sitting") == family("animals_bovines-gnu2")
    )
    assert family("emoji-1f468-1f3fb-200d-1f33e") == family("emoji-1f468-1f3ff-200d-1f33e")
    assert family("emoji-1f468") != family("emoji-1f469")
    assert split_of("hobbies-dreydl-shin") == split_of("hobbies-dreydl-shin_mirror")


def test_split_is_fixed():
    assert split_of("person-d684dae3") == "test"
    assert split_of("animal-sample4") == "valid"
    assert split_of("person-bd6af989") == "train"
    found = [split_of(f"thing{chr(97 + i % 26)}{chr(97 + i // 26)}") for i in range(676)]
    assert 0.2 < found.count("test") / 676 < 0.3
    assert 0.02 < found.count("valid") / 676 < 0.08


# the pool


def test_colors_go_on_where_nothing_shows():
    image = cv2.cvtColor(disc(64, (0, 0, 200)), cv2.COLOR_BGRA2RGBA)
    extended = extend_colors(image)
    assert (extended[..., 0] > 190).all() and (extended[..., 1:3] < 10).all()
    np.testing.assert_array_equal(extended[..., 3], image[..., 3])


def test_smaller_levels_keep_the_color_of_the_edge():
    for level in make_pyramid(disc(400, (255, 255, 255), hidden=0)):
        assert (level[..., :3] > 250).all()
    assert [level.shape[0] for level in make_pyramid(disc(400, (1, 1, 1)))] == [400, 200, 100]


def test_pool_gives_the_smallest_size_that_does(pool: Path):
    train = Pool(pool, "train")
    assert train.subject(train.kinds["people"][0], 90).shape == (100, 100, 4)
    assert train.subject(train.kinds["people"][0], 101).shape == (200, 200, 4)
    assert train.subject(train.kinds["people"][0], 999).shape == (200, 200, 4)
    assert train.background(train.backgrounds[0], 150).shape == (150, 200, 3)


def test_pictures_of_16_bits_are_read_as_8(tmp_path: Path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), 257 * disc(40, (9, 99, 199)).astype(np.uint16))
    expected = cv2.cvtColor(disc(40, (9, 99, 199)), cv2.COLOR_BGRA2RGBA)
    np.testing.assert_array_equal(read_pixels(path), expected)


@pytest.mark.parametrize("split", ["tset", "valid"])
def test_pool_names_what_is_missing(tmp_path: Path, split: str):
    with pytest.raises(FootageError, match="split|fetch_data"):
        Pool(tmp_path, split)


def test_fetched_subjects_are_cut_out_and_clean():
    image = np.zeros((300, 500, 4), np.uint8)
    image[50:150, 100:300] = disc(200, (9, 99, 199))[50:150]
    image[290, 490] = 255  # a speck far away
    found = fetch_data.clean_subject(image)
    assert found is not None and found.shape[0] == 100 and 178 <= found.shape[1] <= 182
    assert found[..., 3].max() == 255
    assert fetch_data.clean_subject(np.full((300, 300, 4), 255, np.uint8)) is None  # no alpha
    assert fetch_data.clean_subject(np.zeros((300, 300, 3), np.uint8)) is None
    large = fetch_data.clean_subject(cv2.resize(disc(300, (9, 99, 199)), (1600, 1600)))
    assert large is not None and max(large.shape) == fetch_data.LONGEST_SUBJECT


def test_a_pool_without_its_photographs_is_not_made(tmp_path: Path):
    arguments = ["--output", f"{tmp_path}/pool", "--photos", f"{tmp_path}/fotos", "--packages", f"{tmp_path}/packages"]
    with pytest.raises(FootageError, match="got none in .*fotos"):
        fetch_data.main(fetch_data.parse_args(arguments))
    assert not list(tmp_path.iterdir())


def test_cases_of_no_size_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        make_cases.parse_args(["--pool", "pool", "--output", "cases", "--size", "0x90"])
    assert "expected WIDTHxHEIGHT, such as 1280x720; got '0x90'" in capsys.readouterr().err


def test_pool_is_laid_out_by_the_split(tmp_path: Path):
    packages, photos = tmp_path / "packages", tmp_path / "photos"
    for name in (*fetch_data.DEBIAN, "lobehub-fluent-emoji-3d"):
        (packages / "unpacked" / name).mkdir(parents=True)
        (packages / (f"{name}-1.tgz" if name.startswith("lobehub") else f"{name}_1.deb")).touch()  # as if downloaded
    stamps = packages / "unpacked/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    wallpapers = packages / "unpacked/mate-backgrounds/usr/share/backgrounds/mate"
    emoji = packages / "unpacked/lobehub-fluent-emoji-3d/package/assets"
    cut, photograph = disc(150, (9, 99, 199)), np.full((60, 80, 3), (9, 99, 199), np.uint8)
    cut[60:90, 60:90, :3] = 255
    for path, image in (
        (photos / "foregrounds/person-d684dae3.png", cut),
        (photos / "foregrounds/person-bd6af989.png", cut),
        (photos / "backgrounds/wall.jpg", photograph),
        (stamps / "animals/zebra.png", cut),
        (stamps / "animals/cartoon/zebra.png", cut),
        (stamps / "animals/photo.png", photograph),
        (emoji / "1f347.webp", cut),
        (emoji / "1f1e6.webp", cut),  # a flag
        (wallpapers / "nature/Wood.jpg", photograph),
        (wallpapers / "abstract/Flow.jpg", photograph),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    arguments = ["--output", f"{tmp_path}/pool", "--photos", str(photos), "--packages", str(packages)]
    fetch_data.main(fetch_data.parse_args(arguments))
    found = {path.relative_to(tmp_path / "pool").as_posix() for path in (tmp_path / "pool").rglob("*.*")}
    assert found == {
        "test/people/person-d684dae3.png",
        "train/people/person-bd6af989.png",
        f"{split_of('wall')}/backgrounds/wall.jpg",
        f"{split_of('Wood')}/backgrounds/Wood.jpg",
        f"{split_of('animals-zebra')}/stamps/animals-zebra.png",
        f"{split_of('emoji-1f347')}/objects/emoji-1f347.png",
    }


def test_view_of_a_map_looks_where_it_should():
    light = np.full((64, 128, 3), 0.1, np.float32)
    light[:, 64 + 10] = (0, 0, 0.3)  # straight ahead of the view in the middle of a turn of one
    (view,) = fetch_data.views_of_map(light, count=1)
    assert view.shape == (448, 640, 3)
    assert abs(int(view[200, 100, 0]) - round(255 * 0.2 ** (1 / 2.2))) <= 1
    column = int(view[224, :, 2].astype(int).argmax())
    expected = 320 + 640 / 1.9 * np.tan(2 * np.pi * 10.5 / 128)
    assert column == pytest.approx(expected, abs=6)


# augmentations


def test_affine_by_hand():
    turned = aug.affine(angle=90, scale=2, about=(10, 10)) @ [11, 10, 1]
    np.testing.assert_allclose(turned, [10, 12, 1], atol=1e-12)
    np.testing.assert_allclose(aug.affine(mirror=True, about=(4, 0), move=(1, 2)) @ [5, 5, 1], [4, 7, 1])


def test_warp_moves_whole_pixels_exactly():
    image = np.random.default_rng(0).random((9, 11, 3), np.float32)
    np.testing.assert_array_equal(aug.warp(image, np.eye(3), (11, 9)), image)
    moved = aug.warp(image, aug.affine(move=(2, 1)), (11, 9))
    np.testing.assert_allclose(moved[1:, 2:], image[:-1, :-2], atol=1e-6)


def test_noise_has_the_deviation_asked_for():
    rng = np.random.default_rng(0)
    dark, bright = np.zeros((300, 300, 3), np.float32), np.ones((300, 300, 3), np.float32)
    assert np.std(aug.add_noise(dark, 0.02, 0.05, rng)) == pytest.approx(0.02, rel=0.02)
    assert np.std(aug.add_noise(bright, 0.03, 0.04, rng)) == pytest.approx(0.05, rel=0.02)
    assert np.std(aug.add_noise(np.zeros((1200, 1700, 3), np.float32), 0.02, 0, rng)) == pytest.approx(0.02, rel=0.02)
    one, other = (aug.add_noise(dark, 0.02, 0, np.random.default_rng(s)) for s in (3, 4))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(
    "soften", [lambda i: aug.blur(i, 2), lambda i: aug.defocus(i, 3), lambda i: aug.motion_blur(i, (8, 0))]
)
def test_blurs_move_no_light(soften):
    dot = np.zeros((41, 41, 3), np.float32)
    dot[20, 20] = 1
    spread = soften(dot)
    assert spread.sum() == pytest.approx(3, rel=1e-4)
    assert spread.max() < 0.3
    y, x = np.mgrid[:41, :41]
    assert ((spread[..., 0] * x).sum(), (spread[..., 0] * y).sum()) == pytest.approx((20, 20), abs=1e-3)


def test_motion_blur_is_as_long_as_the_motion():
    dot = np.zeros((41, 41, 1), np.float32)
    dot[20, 20] = 1
    spread = aug.motion_blur(dot, (0, 10))[..., 0]
    rows = np.nonzero(spread.sum(1) > 1e-3)[0]
    assert (rows[0], rows[-1]) == (15, 25)
    assert np.count_nonzero(spread.sum(0) > 1e-6) == 1


def test_tone_curve_by_hand():
    table = aug.table_of(gain=np.array([0.5, 1.0, 2.0]))
    assert table[100].tolist() == [50, 100, 200] and table[200].tolist() == [100, 200, 255]
    assert aug.table_of(contrast=2.0)[[64, 191], 0].tolist() == [0, 254]
    rgba = np.full((2, 2, 4), 100, np.uint8)
    assert aug.apply_table(rgba, table)[0, 0].tolist() == [50, 100, 200, 100]


def test_recolor_leaves_grey_alone():
    grey = np.full((2, 2, 3), 0.4, np.float32)
    np.testing.assert_allclose(aug.recolor(grey, 1.7, 80), grey, atol=1e-6)
    red = np.array([[[1.0, 0, 0]]], np.float32)
    np.testing.assert_allclose(aug.recolor(red, 0.0), 0.2126 * np.ones((1, 1, 3)), atol=1e-6)
    np.testing.assert_allclose(aug.recolor(red, 1.0, 120), [[[0, 1, 0]]], atol=1e-6)


def test_shadow_lies_where_it_is_cast():
    pha = np.zeros((128, 128, 1), np.float32)
    pha[40:60, 40:60] = 1
    cast = aug.cast_shadow(pha, (32, 16), softness=2)
    assert cast.shape == pha.shape and cast[66, 82, 0] > 0.9 and cast[50, 50, 0] < 0.1


def test_the_suns_shadow_is_sharp():
    pha = np.zeros((256, 256, 1), np.float32)
    pha[100:150, 100:150] = 1
    sharp, soft = (aug.cast_shadow(pha, (0, 0), softness)[125, :, 0] for softness in (0.3, 8))
    assert np.count_nonzero((sharp > 0.1) & (sharp < 0.9)) <= 4
    assert np.count_nonzero((soft > 0.1) & (soft < 0.9)) > 30


def test_compression_is_mild_and_bytes_are_rounded():
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (64, 1, 3))
    assert np.abs(aug.compress(ramp, 90).astype(int) - ramp).mean() < 2
    assert aug.to_bytes(np.array([[[-1.0, 0.5, 1.5]]], np.float32))[0, 0].tolist() == [0, 128, 255]


# composition


def layer(value: float, alpha: float) -> Layer:
    return Layer(np.full((2, 2, 3), value, np.float32), np.full((2, 2, 1), alpha, np.float32))


def test_compose_by_hand():
    src = compose(layer(0.8, 0.25), np.full((2, 2, 3), 0.4, np.float32))
    np.testing.assert_allclose(src, 0.5, atol=1e-6)  # 0.8 / 4 + 0.4 * 3 / 4


def test_compose_in_light_by_hand():
    src = compose_in_light(layer(1.0, 0.5), np.zeros((2, 2, 3), np.float32), gamma=2.0)
    np.testing.assert_allclose(src, 0.5**0.5, atol=1e-6)


def test_spill_lights_the_rim_alone():
    pha = np.zeros((128, 128, 1), np.float32)
    pha[32:, 32:] = 1
    room = np.broadcast_to(np.array([0.1, 0.8, 0.1], np.float32), (128, 128, 3))
    dark = np.full((128, 128, 3), 0.2, np.float32)
    lit = spilled(Layer(dark, pha), room, 0.4, 6).fgr
    np.testing.assert_allclose(lit[100, 100], dark[100, 100], atol=1e-3)  # far inside
    np.testing.assert_allclose(lit[80, 33, 1], (0.04 + 0.4 * 0.8 * 0.64) ** 0.5, atol=0.05)  # half of the light around
    assert lit[80, 33, 0] < 0.22  # the room is green


def test_over_by_hand():
    both = over(layer(1.0, 0.5), layer(0.2, 0.5))
    np.testing.assert_allclose(both.pha, 0.75)
    np.testing.assert_allclose(both.fgr, 0.55 / 0.75, rtol=1e-6)  # (1.0 * 0.5 + 0.2 * 0.25) / 0.75
    bgr = np.full((2, 2, 3), 0.6, np.float32)
    one_by_one = compose(layer(1.0, 0.5), compose(layer(0.2, 0.5), bgr))
    np.testing.assert_allclose(compose(both, bgr), one_by_one, atol=1e-6)


@pytest.mark.parametrize(("motion", "focus"), [(9.0, 0.0), (0.0, 3.0), (9.0, 3.0)])
def test_blurred_cut_out_brings_no_rim(motion: float, focus: float):
    image = np.full((60, 60, 4), (255, 255, 255, 0), np.uint8)  # a grey square, white where nothing shows
    image[20:40, 20:40] = (102, 102, 102, 255)
    soft = place(image, np.eye(3), (60, 60), motion=(motion, 0.0), focus=focus)
    assert 0.05 < soft.pha[30, 18, 0] < 0.95
    np.testing.assert_allclose(soft.fgr[soft.pha[..., 0] > 0.01], 0.4, atol=1e-4)


@pytest.mark.parametrize("name", procedural.DRAWN)
def test_drawn_subjects(name: str):
    texture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    shares = []
    for seed in range(6):
        image = procedural.DRAWN[name][0](texture, np.random.default_rng(seed))
        assert image.shape == (96, 96, 4) and image.dtype == np.uint8
        assert image[..., 3].max() > 20
        shares.append(((image[..., 3] > 12) & (image[..., 3] < 243)).sum() / (image[..., 3] > 12).sum())
    # glass and veils let light through nearly everywhere; thin things partly; a blob at its edge
    assert np.mean(shares) > (0.6 if name in ("veil", "glass") else 0.02)


def test_thinning_only_takes_away():
    image = disc(96, (10, 200, 30))
    thinned = procedural.thin_out(image, np.random.default_rng(2))
    assert (thinned[..., 3] <= image[..., 3]).all() and thinned[48, 48, 3] < 250
    np.testing.assert_array_equal(thinned[..., :3], image[..., :3])


@pytest.mark.parametrize("seed", range(6))
def test_piercing_makes_many_small_gaps(seed: int):
    image = disc(96, (10, 200, 30))
    pierced = procedural.pierce(image, np.random.default_rng(seed))[..., 3]
    assert (pierced <= image[..., 3]).all()
    taken = (image[..., 3] == 255) & (pierced < 128)
    assert 0.02 < taken.sum() / (image[..., 3] == 255).sum() < 0.45
    sizes = cv2.connectedComponentsWithStats(taken.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    assert len(sizes) > 3 and np.median(sizes) < 0.05 * taken.size
    assert (pierced[taken] == 0).mean() > 0.2


@pytest.mark.parametrize("seed", range(6))
def test_loose_hairs_stand_off_the_outline(seed: int):
    image = disc(96, (10, 200, 30))
    hairy = procedural.loose_hairs(image, np.random.default_rng(seed))
    pad = hairy.shape[0] - 96
    assert pad > 10 and hairy.shape[1] == 96 + 2 * pad
    inside = hairy[pad:, pad : pad + 96]
    assert (inside[..., 3] >= image[..., 3]).all()
    np.testing.assert_array_equal(inside[image[..., 3] == 255], image[image[..., 3] == 255])
    body = cv2.dilate(np.pad(image[..., 3], ((pad, 0), (pad, pad))), np.ones((5, 5), np.uint8)) > 0
    beyond = hairy[..., 3][~body]
    assert 0.0005 < (beyond > 25).mean() < 0.3


def test_what_is_too_small_for_hairs_only_gets_a_larger_canvas():
    image = disc(96, (10, 200, 30))
    image[..., 3] = 0
    assert not procedural.loose_hairs(image, np.random.default_rng(0))[..., 3].any()


# clips


def test_clip_is_what_its_text_says(pool: Path):
    clips = ClipDataset(pool, "train", 64, 3, seed=0)
    for index in range(12):
        clip = clips[index]
        assert {name: tuple(clip[name].shape) for name in clip} == {
            "src": (3, 3, 64, 64),
            "bgr": (3, 3, 64, 64),
            "pha": (3, 1, 64, 64),
            "fgr": (3, 3, 64, 64),
            "has_plate": (),
        }
        for name in ("src", "bgr", "pha", "fgr"):
            assert clip[name].dtype == torch.float32 and 0 <= clip[name].min() and clip[name].max() <= 1
            assert torch.isfinite(clip[name]).all()
        for name in ("src", "bgr"):
            torch.testing.assert_close(clip[name] * 255, (clip[name] * 255).round(), atol=1e-3, rtol=0)
        bare = clip["pha"] == 0
        torch.testing.assert_close(clip["fgr"][bare.expand_as(clip["fgr"])], clip["src"][bare.expand_as(clip["src"])])


def test_clips_repeat_and_differ(pool: Path):
    def make(seed: int, index: int) -> dict[str, torch.Tensor]:
        return ClipDataset(pool, "train", 48, 2, seed)[index]

    assert all(torch.equal(a, b) for a, b in zip(make(5, 3).values(), make(5, 3).values(), strict=True))
    assert not torch.equal(make(5, 3)["src"], make(5, 4)["src"])
    assert not torch.equal(make(5, 3)["src"], make(6, 3)["src"])
    with pytest.raises(IndexError):
        make(0, -1)


SPOILT = dict.fromkeys("misaligned drift refocused noise compressed sharpened light_change breeze".split(), 1.0)


@pytest.mark.parametrize(
    "shares",
    [{}, SPOILT | {"pristine": 1.0, "exact_plate": 0.0}, {"loose_hairs": 1.0}],
    ids=["clean", "pristine", "with loose hairs"],
)
def test_clip_truth_agrees_with_its_source(pool: Path, shares: dict[str, float]):
    clips = ClipDataset(pool, "train", 96, 2, seed=1, mix=Mix(**CLEAN | shares))
    seen = 0.0
    for index in range(20):
        clip = clips[index]
        torch.testing.assert_close(
            clip["src"], clip["fgr"] * clip["pha"] + clip["bgr"] * (1 - clip["pha"]), atol=1.01 / 255, rtol=0
        )
        seen += float(clip["pha"].mean())
    assert seen > 1


def test_empty_clip_is_its_plate(pool: Path):
    mix = Mix(**CLEAN | {"no_subject": 1.0, "moving_camera": 1.0, "distractors": 1.0})
    for index in range(4):
        clip = ClipDataset(pool, "train", 64, 3, seed=2, mix=mix)[index]
        assert clip["pha"].max() == 0
        torch.testing.assert_close(clip["src"], clip["bgr"], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "share",
    [
        "ghost",
        "misaligned",
        "wrong_plate",
        "drift",
        "refocused",
        "noise",
        "shadow",
        "light_change",
        "breeze",
        "compressed",
    ],
)
def test_every_fault_shows_in_the_plate(pool: Path, share: str):
    mix = Mix(**CLEAN | {share: 1.0, "exact_plate": 0.0})
    clips = ClipDataset(pool, "train", 64, 1, seed=3, mix=mix)
    away = [
        float(((clip["src"] - clip["bgr"]).abs() * (clip["pha"] == 0)).mean()) for clip in (clips[i] for i in range(8))
    ]
    assert np.mean(away) > 1e-3


def test_without_a_plate_subjects_are_people(pool: Path, monkeypatch: pytest.MonkeyPatch):
    clips = ClipDataset(pool, "train", 64, 1, seed=4, mix=Mix(no_plate=1.0, distractors=0.0))
    asked: list[str] = []
    give = clips.pool.subject
    monkeypatch.setattr(clips.pool, "subject", lambda path, size: asked.append(path.parent.name) or give(path, size))
    assert not any(clips[index]["has_plate"] for index in range(8))
    assert set(asked) == {"people", "rendered"}


# pairs


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two foregrounds of (200, 100, 50) with alphas whose left half is 1, and one grey background."""
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, :30] = 255
    for name in ("a", "b"):
        for kind, image in (("fgr", np.full((40, 60, 3), (50, 100, 200), np.uint8)), ("pha", alpha)):
            (tmp_path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / f"{name}.png"), image)
    (tmp_path / "bgr").mkdir()
    cv2.imwrite(str(tmp_path / "bgr" / "grey.png"), np.full((50, 50, 3), 100, np.uint8))
    return tmp_path


def make_pairs(folder: Path, augment: bool = False, size: int = 32) -> ImagePairDataset:
    return ImagePairDataset(folder / "fgr", folder / "pha", folder / "bgr", size, seed=0, augment=augment)


def test_pair_by_hand(pairs: Path):
    sample = make_pairs(pairs)[1]
    assert {name: tuple(image.shape) for name, image in sample.items()} == {
        "src": (3, 32, 32),
        "bgr": (3, 32, 32),
        "pha": (1, 32, 32),
        "fgr": (3, 32, 32),
    }
    torch.testing.assert_close(sample["src"][:, 16, 4], torch.tensor([200, 100, 50]) / 255)
    torch.testing.assert_close(sample["src"][:, 16, 28], torch.full((3,), 100 / 255))
    assert sample["pha"][0, 16].tolist()[:14] == [1.0] * 14


def test_augmented_pairs_differ_by_epoch_and_repeat_by_seed(pairs: Path):
    data = make_pairs(pairs, augment=True)
    torch.manual_seed(7)
    first, second = data[0], data[0]
    torch.manual_seed(7)
    assert torch.equal(first["src"], data[0]["src"]) and not torch.equal(first["src"], second["src"])
    for name, image in first.items():
        assert 0 <= image.min() and image.max() <= 1, name


def test_a_damaged_picture_is_not_called_a_plate(tmp_path: Path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(FootageError, match=r"^Expected a readable image; got .*a\.png"):
        read_picture(find_pictures(tmp_path)[0])


def test_counts_that_differ_name_the_files(pairs: Path):
    (pairs / "pha" / "b.png").unlink()
    with pytest.raises(FootageError, match=r"2 in .* and 1 in .*fgr.b\.png"):
        make_pairs(pairs)


def test_an_alpha_of_another_size_is_refused(pairs: Path):
    cv2.imwrite(str(pairs / "pha" / "a.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(FootageError, match="60 x 40"):
        make_pairs(pairs)[0]


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(FootageError, match="images or movies"):
        find_pictures(tmp_path)


def test_pairs_of_movies_and_exr(tmp_path: Path):
    for kind, values in (("fgr", (60, 120, 180)), ("pha", (0, 128, 255))):
        (tmp_path / kind).mkdir()
        with av.open(str(tmp_path / kind / "clip.mp4"), "w") as container:
            stream = container.add_stream("libx264", 24, width=64, height=64, pix_fmt="yuv420p", options={"crf": "1"})
            for value in values:
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (tmp_path / "bgr").mkdir()
    write_exr(tmp_path / "bgr" / "linear.exr", {"RGB": np.full((64, 64, 3), 0.214, np.float32)})
    data = make_pairs(tmp_path)
    assert len(data) == 3
    found = [
        (float(s["pha"].mean()), float(s["fgr"].mean()), float(s["bgr"].mean())) for s in (data[i] for i in range(3))
    ]
    expected = [(0, 60 / 255, 0.5), (128 / 255, 120 / 255, 0.5), (1, 180 / 255, 0.5)]
    np.testing.assert_allclose(found, expected, atol=0.012)


# cases


def test_cases(pool: Path, tmp_path: Path):
    arguments = ["--pool", str(pool), "--size", "160x96", "--frames", "2"]
    counts = make_cases.main(make_cases.parse_args([*arguments, "--output", str(tmp_path / "a")]))
    assert {name.rsplit("-", 1)[0] for name in counts} == set(make_cases.SETS)

    def read(path: str) -> np.ndarray:
        image = cv2.imread(str(tmp_path / path), cv2.IMREAD_UNCHANGED)
        return image.astype(float) / (65535 if image.dtype == np.uint16 else 255)

    name = "a/people-exact/{}/person-0.png"
    pha = read(name.format("pha"))[..., None]
    assert 0.1 < pha.mean() < 0.9
    src = read(name.format("fgr")) * pha + read(name.format("bgr")) * (1 - pha)
    np.testing.assert_allclose(read(name.format("src")), src, atol=1.5 / 255)
    bare = read("a/empty-exact/pha/empty-0.png")
    assert bare.max() == 0
    np.testing.assert_array_equal(read("a/empty-exact/src/empty-0.png"), read("a/empty-exact/bgr/empty-0.png"))

    away = [
        np.abs(read(f"a/empty-{level}/src/empty-0.png") - read(f"a/empty-{level}/bgr/empty-0.png")).mean()
        for level in make_cases.LEVELS
    ]
    assert away[0] == 0 and 0.01 < away[1] < away[2]
    np.testing.assert_array_equal(read("a/people-hard/pha/person-0.png")[..., None], pha)
    walk = [read(f"a/clips-hard/pha/walk/{frame:04d}.png") for frame in (1, 2)]
    assert np.abs(walk[0] - walk[1]).max() > 0.5
    assert (tmp_path / "a" / "clips-hard" / "bgr" / "walk.png").is_file()

    make_cases.main(make_cases.parse_args([*arguments, "--output", str(tmp_path / "b"), "--sets", "empty"]))
    for path in (tmp_path / "b").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
