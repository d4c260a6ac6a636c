# SPDX-License-Identifier: GPL-3.0-or-later
"""Render subjects with exact alpha and straight colour for training: hair, fur, people, plants, glass, bicycles.

    python scripts/render_dataset.py --packages FOLDER --hdri FOLDER --output POOL --count 500 [--clips]

Stills go to POOL/{train,test}/rendered/KIND-SUBJECT-NUMBER.png, clips to .../rendered_clips/NAME/0001.png.
Files that exist are skipped, so that the command may be stopped and called again. Models come from Debian's
sweethome3d-furniture (unpacked into --packages on the first call). Runs itself again in Blender's Python.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.environments import rendering_python  # noqa: E402
from scripts.rendered_pixels import Array, develop, straighten  # noqa: E402

CATALOGUES = ("Reallusion", "BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia")

SHARES = {"hair": 30, "fur": 14, "glass": 16, "plant": 12, "held": 10, "person": 8, "bike": 5, "thin": 5}

# Model: who it is (several models show one person), and how far the face turns from the body's front (radians);
# None where the head is not on top or wears a hat, so that no hair can be grown on it.
PEOPLE: dict[str, tuple[str, float | None]] = {
    "boyStanding": ("boy", 0.0),
    "boySitting": ("boy", 0.0),
    "girlStanding": ("girl", 0.0),
    "girlSittingTable": ("girl", 0.0),
    "girlSittingGround": ("girl", 0.0),
    "female01": ("redhead", 1.3),
    "sitFemale01": ("redhead", 0.0),
    "sitFemale02": ("redhead", 0.0),
    "female02": ("brunette", 0.0),
    "holdingFemale01": ("brunette", 0.0),
    "holdingFemale02": ("brunette", -0.35),
    "female03": ("bob", 0.0),
    "holdingFemale03": ("bob", 0.0),
    "sitFemale03": ("bob", 0.0),
    "holdingMale01": ("blond", 0.0),
    "male03": ("blond", 0.2),
    "sitMale02": ("blond", 0.0),
    "sitMale03": ("blond", 0.0),
    "male02": ("fringe", -0.6),
    "sitMale01": ("fringe", 0.0),
    "male01": ("hat", None),
    "lyingDownFemale01": ("brunette", None),
    "lyingDownMale01": ("hat", None),
    "lyingDownMale02": ("blond", None),
    "boyLying": ("boy", None),
    "female-01-casual-clothing": ("casual", None),
    "male-01-suit": ("suit", None),
}
TEST_PEOPLE = ("brunette", "fringe")

THINGS = {
    "fur": """
        horse horse2 deer siameseCat bulldog rabbit cat dog chicken teddyBear
    """.split(),
    "plant": """
        orchids decorativePlant plant littlePlant plantie cactus flowerBox augalas yuccaPlant succulentPlant
        spider_plant mediumIndoorPlant luckyBamboo white_lily tulip tulips spatifilum arbolito
        calla_lily_with_roses maceta bonsai-tree ficus bush bamboo acacia japaneseMaple palm peachBlossom
        pine sycamoreMaple copperBeech coconutTree cypress sabalPalmeto christmas_tree ficusTree poplar
    """.split(),
    "bike": """
        bike bicycle tricycle wheelchair motorbike scooter scooter2 stroller yamaha-yzr-r6 indoor-bike
        caballito
    """.split(),
    "thin": """
        clothes-horse wire-coathanger umbrella fence pedestrianRailing1 pedestrianRailing2 iron-railing-1
        iron-railing-2 iron-railing-3 foldingChair cafe-chair desklamp tennisRacket shopping-basket
        football-goal step-ladder-metal tubular_chair antiqueChair thonet glasses sunglasses headphones
        tableFan chandelier-lamp hammock clothes-rack utensilsPot rattanArmchair japanese_style_screen
        candelabre
    """.split(),
    "prop": """
        handbag briefcase umbrellaFolded electricGuitar tennisRacket basketball backpack book suitcase gift
        coffee_cup teddyBear wine_bottle teapot hotDog cardboard-box coffee-mug laptop reflex_camera broom
        shovel cupcake headphones iphone newspaper spray-bottle skateboard flashlight marteau bowlWithFruits
        birthday_cake tulips orchids fireExtinguisher
    """.split(),
}
GLASSWARE = ("tumbler", "goblet", "bottle", "bowl", "foil", "veil")
STYLES = ("long", "wavy", "curly", "afro", "short", "bob", "windy")


@dataclass(frozen=True)
class Shot:
    """One still or clip to be rendered; its seed decides all the rest."""

    kind: str
    subject: str  # a model's name, or a make of glassware
    number: int
    split: str
    frames: int = 1

    @property
    def name(self) -> str:
        """Unique in a series: KIND-SUBJECT-NUMBER."""
        return f"{self.kind}-{self.subject}-{self.number:05d}"

    def path(self, pool: Path) -> Path:
        """The still's file, or the clip's folder."""
        return pool / self.split / (f"rendered/{self.name}.png" if self.frames == 1 else f"rendered_clips/{self.name}")


def split_of(kind: str, subject: str, number: int) -> str:
    """train or test, permanently. A person or model is on one side only, whatever kind of picture shows it."""
    if subject in PEOPLE:
        return "test" if PEOPLE[subject][0] in TEST_PEOPLE else "train"
    # Glassware is made anew for each number: no two are the same. "u": a salt that leaves both sides some of each kind.
    family = f"{subject}-{number}" if kind == "glass" else subject.rstrip("0123456789")
    return "test" if hashlib.sha256(f"u{family}".encode()).digest()[0] < 0.2 * 256 else "train"


def plan(count: int, seed: int, models: set[str], frames: int = 1) -> list[Shot]:
    """The first `count` shots of an endless series: a longer plan begins with the shorter one."""
    kinds = list(SHARES)
    weights = np.array([SHARES[kind] for kind in kinds], float)
    shots = []
    for number in range(count):
        rng = np.random.default_rng([seed, number, 0])
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        if kind == "glass":
            choices = list(GLASSWARE)
        elif kind in ("hair", "person", "held"):
            choices = [name for name in PEOPLE if name in models and (kind == "person" or PEOPLE[name][1] is not None)]
        else:
            choices = [name for name in THINGS[kind] if name in models]
        if choices:
            subject = str(rng.choice(choices))
            shots.append(Shot(kind, subject, number, split_of(kind, subject, number), frames))
    return shots


def find_models(packages: Path) -> dict[str, Path]:
    """Name to OBJ of all models of the catalogues in `packages`, unpacked here from Debian's package if need be."""
    folder = packages / "sweethome3d"
    if not folder.is_dir():
        archives = sorted(packages.glob("sweethome3d-furniture_*.deb"))
        if not archives:
            sys.exit(
                f"Expected sweethome3d-furniture_*.deb in {packages}. Run there: apt-get download sweethome3d-furniture"
            )
        with tempfile.TemporaryDirectory(dir=packages) as partial:
            subprocess.run(["dpkg", "-x", archives[0], partial], check=True)
            for name in CATALOGUES:
                source = Path(partial) / f"usr/share/sweethome3d/furniture/{name}.sh3f"
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(Path(partial) / "models" / name)
            shutil.move(Path(partial) / "models", folder)
    return {path.stem: path for path in sorted(folder.rglob("*.obj"), reverse=True) if path.stat().st_size < 15e6}


def main(args: argparse.Namespace) -> None:
    """Plan, then render shot by shot in Blender's Python."""
    if importlib.util.find_spec("bpy") is None:
        sys.exit(subprocess.run([rendering_python(), __file__, *sys.argv[1:]]).returncode)
    models = find_models(args.packages)
    hdris = sorted(args.hdri.glob("*.hdr"))
    if not hdris:
        sys.exit(f"Expected environment maps (*.hdr) in {args.hdri}.")
    planned = plan(args.first + args.count, args.seed, set(models), args.frames if args.clips else 1)
    shots = [
        shot
        for shot in planned
        if shot.number >= args.first
        and (not args.kinds or shot.kind in args.kinds)
        and not shot.path(args.output).exists()
    ]
    print(f"{len(shots)} to render", flush=True)
    for done, shot in enumerate(shots, start=1):
        start = time.monotonic()
        covered = render_shot(shot, models, hdris, args)
        print(
            f"{done}/{len(shots)} {shot.split} {shot.name}: {covered:.0%} covered, {time.monotonic() - start:.0f} s",
            flush=True,
        )


def render_shot(shot: Shot, models: dict[str, Path], hdris: list[Path], args: argparse.Namespace) -> float:
    """Build the scene, render its frames, move them to their place when all are there. Returns the share covered."""
    from scripts import render_subjects as stage

    rng = np.random.default_rng([args.seed, shot.number, 1])
    stage.clear()
    target, extent, azimuth = build(shot, models, rng, stage)
    light(target, hdris, rng, stage)
    camera_azimuth = azimuth + float(rng.normal(0, 0.5))
    elevation = float(np.clip(rng.normal(0.1, 0.15), -0.2, 0.6))
    f_stop = float(rng.choice([1.4, 2.0, 4.0])) if rng.random() < 0.3 and shot.kind != "glass" else None
    stage.add_camera(target, extent, camera_azimuth, elevation, float(rng.choice([35, 50, 85])), f_stop)
    blurred = shot.frames > 1 or rng.random() < 0.25
    stage.set_render(args.size, args.size, args.threads, 0.5 if blurred else 0.0)
    reach = 0.025 * extent * (shot.frames if shot.frames > 1 else 2) / 2
    swing = rng.normal(0, 0.5 * reach, 3) if blurred else np.zeros(3)
    turn = np.array([0, 0, rng.normal(0, 0.012 * max(shot.frames, 2))]) if blurred else np.zeros(3)
    root = stage.add_root()
    stage.animate_transform(root, tuple(-swing), tuple(swing), tuple(turn), max(shot.frames, 2))
    level = float(np.exp(rng.uniform(np.log(0.07), np.log(0.32))))
    partial = args.output / ".partial" / shot.name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    alpha_samples = args.alpha_samples * (3 if shot.kind == "glass" else 1)  # each ray passes a clear wall or does not
    coverage = []
    for number in range(1, shot.frames + 1):
        stage.set_frame(number)
        with tempfile.TemporaryDirectory() as scratch:
            premul, alpha = stage.render(Path(scratch), args.samples, alpha_samples)
        coverage.append(float(alpha.mean()))
        alpha = np.where(alpha < 0.5 / 255, 0, alpha).astype(np.float32)
        fgr = develop(straighten(premul, alpha), alpha, level)
        rgba = np.dstack([fgr, alpha])
        stage.write_png(partial / f"{number:04d}.png", crop(rgba) if shot.frames == 1 else rgba)
    goal = shot.path(args.output)
    if np.mean(coverage) > 0.01:
        goal.parent.mkdir(parents=True, exist_ok=True)
        (partial / "0001.png" if shot.frames == 1 else partial).replace(goal)
    shutil.rmtree(partial, ignore_errors=True)
    return float(np.mean(coverage))


def crop(rgba: Array, margin: int = 4) -> Array:
    """The part of (H, W, 4) that is not empty, with a margin."""
    rows, columns = (np.nonzero((rgba[..., 3] > 0).any(axis))[0] for axis in (1, 0))
    if not len(rows):
        return rgba
    top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    return rgba[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]


def light(target: Array, hdris: list[Path], rng: np.random.Generator, stage: Any) -> None:
    """An environment map turned at random, often a key light, more often a rim light."""
    stage.set_world(hdris[int(rng.integers(len(hdris)))], float(rng.uniform(0, 2 * np.pi)), 1.0)
    if rng.random() < 0.4:
        stage.add_light(
            target, rng.uniform(-1.3, 1.3), rng.uniform(0.1, 0.9), 60 * rng.uniform(0.3, 2), rng.uniform(0.3, 2)
        )
    if rng.random() < 0.6:
        colour = 1 - rng.uniform(0, 0.35, 3)
        stage.add_light(
            target, np.pi + rng.uniform(-0.9, 0.9), rng.uniform(0.1, 0.9), 110 * rng.uniform(0.3, 2), 0.6, tuple(colour)
        )


Place = tuple[Array, float, float]  # what the camera looks at, metres that it sees across, its azimuth


def build(shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any) -> Place:
    """Make the shot's subject and say how to look at it."""
    return BUILDERS.get(shot.kind, build_thing)(shot, models, rng, stage)


def build_thing(shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any) -> Place:
    """A model, a metre at its longest, seen whole or close up."""
    subject = stage.import_obj(models[shot.subject], size=1.0)
    stage.use_picture_alpha(subject)
    points = stage.vertices(subject.data)
    close = rng.random() < 0.3
    target = points[int(rng.integers(len(points)))] if close else (points.min(0) + points.max(0)) / 2
    extent = rng.uniform(0.35, 0.7) if close else 1.15 * float(np.linalg.norm(np.ptp(points, axis=0)[[0, 2]]))
    return target.astype(np.float32), float(extent), float(rng.uniform(-np.pi, np.pi))


def build_fur(shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any) -> Place:
    """An animal's shape a metre long under fur of any length and colour."""
    subject = stage.import_obj(models[shot.subject], size=1.0)
    stage.make_matte(subject, 0.8)
    length = float(np.exp(rng.uniform(np.log(0.015), np.log(0.09))))
    style = stage.HairStyle(
        length=length,
        strands=int(np.clip(900 / length, 12000, 26000)),
        points=6,
        lift=float(rng.uniform(0.15, 0.8)),
        gravity=float(rng.uniform(0.1, 0.9)),
        frizz=float(rng.uniform(0.02, 0.25)),
        wave=float(rng.uniform(0, 0.25)) * length,
        clumps=int(rng.integers(60, 390)) * 8,
        clumping=float(rng.uniform(0, 0.15)),
        radius=float(rng.uniform(0.0004, 0.0009)),
        sweep_back=float(rng.uniform(0.2, 1)),
    )
    stage.add_strands(stage.grow_fur(subject.data, style, rng), style.radius, hair_colour(rng, stage))
    points = stage.vertices(subject.data)
    close = rng.random() < 0.35
    target = points[points[:, 2].argmax()] if close else (points.min(0) + points.max(0)) / 2
    extent = rng.uniform(0.4, 0.7) if close else 1.15 * float(np.linalg.norm(np.ptp(points, axis=0)[[0, 2]]))
    return target.astype(np.float32), float(extent), float(rng.uniform(-np.pi, np.pi))


def build_person(shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any) -> Place:
    """A person, bent a little; with hair of strands (always for "hair"), and something in hand (for "held")."""
    body = stage.import_obj(models[shot.subject])
    stage.make_matte(body, float(rng.uniform(0.4, 0.7)))
    points = stage.vertices(body.data)
    yaw = PEOPLE[shot.subject][1]
    low, high = points.min(0), points.max(0)
    if yaw is None:
        return ((low + high) / 2).astype(np.float32), 1.1 * float((high - low).max()), float(rng.normal(0, 0.6))
    head = stage.find_head(points, yaw)
    poses = [random_pose(rng, stage) for _ in range(2)]
    if shot.kind == "held":
        hold(body, points, head, shot, models, rng, stage)
    shares = np.linspace(0, 0.3, shot.frames) if shot.frames > 1 else np.zeros(2)
    path = [mix_poses(poses[0], poses[1], float(share), stage) for share in shares]
    stage.animate_points(body, [stage.bend(points, pose, head) for pose in path])
    if shot.kind == "hair" or rng.random() < 0.5:
        style = hair_style(str(rng.choice(STYLES)), rng, stage)
        strands = stage.grow_hair(head, style, rng)
        carrier = stage.add_strands(strands, style.radius, hair_colour(rng, stage))
        along = np.tile(np.linspace(0, style.length, style.points, dtype=np.float32), len(strands))
        flat = strands.reshape(-1, 3)
        stage.animate_points(carrier, [stage.bend(flat, pose, head, hair=True, along=along) for pose in path])
    if shot.kind == "hair":
        target = head.middle + np.array([0, 0, rng.uniform(-0.2, 0)], np.float32)
        return target, float(rng.uniform(0.5, 0.95)), float(yaw + rng.normal(0, 0.9))
    if shot.kind == "held" or rng.random() < 0.5:  # from the hips upwards
        height = min(1.05, float(high[2]))
        return (head.middle + np.array([0, 0, 0.2 - height / 2], np.float32)), 1.15 * height, float(rng.normal(0, 0.3))
    return ((low + high) / 2).astype(np.float32), 1.15 * float((high - low).max()), float(rng.normal(0, 0.6))


def hold(
    body: Any, points: Array, head: Any, shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any
) -> None:
    """Put a model of the same split where a hand is: the point farthest from the trunk between hips and chin."""
    band = points[(points[:, 2] > head.hips - 0.1) & (points[:, 2] < head.neck[2] - 0.1)]
    band = band[np.linalg.norm(band[:, :2] - head.neck[:2], axis=1) < 0.75]
    hand = band[np.linalg.norm((band - head.neck) * [1, 1, 0.4], axis=1).argmax()]
    choices = [n for n in THINGS["prop"] if n in models and split_of("held", n, 0) == shot.split]
    if rng.random() < 0.2 or not choices:
        prop = make_glassware(str(rng.choice(GLASSWARE[:4])), rng, stage)
    else:
        prop = stage.import_obj(models[str(rng.choice(choices))], size=float(rng.uniform(0.15, 0.6)))
        stage.use_picture_alpha(prop)
    size = stage.vertices(prop.data)
    prop.rotation_euler = (rng.normal(0, 0.25), rng.normal(0, 0.25), rng.uniform(0, 6.28))
    prop.location = (*hand[:2], hand[2] - rng.uniform(0.2, 0.8) * np.ptp(size[:, 2]))
    body.select_set(False)


def random_pose(rng: np.random.Generator, stage: Any) -> Any:
    """A pose a little off the one that the model was made in."""
    return stage.Pose(
        head=(rng.normal(0, 0.12), rng.normal(0, 0.1), rng.normal(0, 0.35)),
        torso=rng.normal(0, 0.15),
        lean=(rng.normal(0, 0.03), rng.normal(0, 0.03)),
        swing=tuple(rng.normal(0, 0.08, 3)),
    )


def mix_poses(a: Any, b: Any, share: float, stage: Any) -> Any:
    """The pose a `share` of the way from a to b."""
    return stage.Pose(
        *(
            tuple((1 - share) * np.array(p) + share * np.array(q))
            if isinstance(p, tuple)
            else (1 - share) * p + share * q
            for p, q in ((getattr(a, key), getattr(b, key)) for key in ("head", "torso", "lean", "swing"))
        )
    )


def hair_style(name: str, rng: np.random.Generator, stage: Any) -> Any:
    """A style of STYLES with some luck in its numbers."""
    base: dict[str, Any] = {
        "long": {"length": rng.uniform(0.3, 0.6), "gravity": 0.5, "frizz": 0.03, "wave": 0.006},
        "wavy": {
            "length": rng.uniform(0.25, 0.5),
            "gravity": 0.4,
            "wave": 0.02,
            "turns": 3.0,
            "clumps": 120,
            "clumping": 0.8,
        },
        "curly": {
            "length": rng.uniform(0.2, 0.4),
            "gravity": 0.2,
            "wave": 0.025,
            "turns": 6.0,
            "frizz": 0.08,
            "points": 28,
        },
        "afro": {
            "length": rng.uniform(0.07, 0.16),
            "gravity": 0.0,
            "lift": 0.9,
            "wave": 0.01,
            "turns": 5.0,
            "frizz": 0.25,
        },
        "short": {"length": rng.uniform(0.03, 0.1), "gravity": 0.15, "lift": 0.5, "points": 10, "frizz": 0.06},
        "bob": {"length": rng.uniform(0.18, 0.26), "gravity": 0.6, "frizz": 0.02, "wave": 0.004, "clumping": 0.5},
        "windy": {
            "length": rng.uniform(0.2, 0.5),
            "gravity": 0.15,
            "lift": 0.45,
            "frizz": 0.09,
            "flyaways": 0.15,
            "wave": 0.015,
        },
    }[name]
    base["strands"] = int(rng.integers(6000, 11000))
    base["radius"] = float(rng.uniform(0.00013, 0.00026))
    return stage.HairStyle(**({"points": 16, "flyaways": rng.uniform(0.01, 0.08)} | base))


def hair_colour(rng: np.random.Generator, stage: Any) -> Any:
    """From white to black, sometimes dyed."""
    if rng.random() < 0.12:
        return stage.make_hair_material(0.1, 0.2, tuple(rng.uniform(0.02, 1, 3)))
    return stage.make_hair_material(
        float(rng.beta(2.2, 1.5)), float(rng.random()), roughness=float(rng.uniform(0.2, 0.5))
    )


def build_glass(shot: Shot, models: dict[str, Path], rng: np.random.Generator, stage: Any) -> Place:
    """One to three pieces of the same make beside each other."""
    pieces = int(rng.choice([1, 1, 2, 3])) if shot.subject not in ("foil", "veil") else 1
    spread = 0.0
    for index in range(pieces):
        piece = make_glassware(shot.subject, rng, stage)
        piece.location[0] = spread = 0.11 * index * float(rng.uniform(0.7, 1.3))
        piece.location[1] = float(rng.normal(0, 0.04)) if index else 0.0
    points = stage.vertices(piece.data)
    middle = (points.min(0) + points.max(0)) / 2 + np.array([spread / 2, 0, 0])
    extent = max(float(np.ptp(points[:, 2])), float(np.ptp(points[:, 0])) + spread) * rng.uniform(0.85, 1.4)
    return middle.astype(np.float32), extent, float(rng.uniform(-np.pi, np.pi)) if pieces == 1 else 0.0


def make_glassware(make: str, rng: np.random.Generator, stage: Any) -> Any:
    """A thin-walled piece; most are clear, some tinted, dirty or frosted, some hold a drink."""
    tint = 1 - (rng.uniform(0, 0.06, 3) if rng.random() < 0.6 else rng.uniform(0, 0.75, 3) * rng.uniform(0.2, 1))
    cover = float(rng.choice([0.0, 0.02, 0.08, rng.uniform(0.1, 0.5)]))
    if make in ("foil", "veil"):
        cloth = make == "veil"
        cover = float(rng.uniform(0.08, 0.55))
        tint = rng.uniform(0.05, 1, 3) if cloth else 1 - rng.uniform(0, 0.2, 3)
        material = stage.make_veil(make, tuple(tint), cover, float(rng.uniform(0.05, 0.3)), fresnel=not cloth)
        return stage.add_sheet(crumple(rng, cloth), make, material)
    material = stage.make_veil(make, tuple(tint), cover, float(rng.uniform(0.0, 0.25)))
    outline = glass_outline(make, rng)
    wall = outline - [float(rng.uniform(0.0012, 0.004)), 0]
    inside = np.maximum(wall[::-1], 0.0) + [0, 0.002]
    piece = stage.lathe(np.concatenate([[[0.0, outline[0, 1]]], outline, inside]).astype(np.float32), make, material)
    if rng.random() < 0.35:
        drink = stage.make_veil("Drink", tuple(rng.uniform(0, 1, 3) ** 2), float(rng.choice([0.0, 0.3, 0.95])), 0.05)
        count = int(len(outline) * rng.uniform(0.3, 0.8))
        body = np.maximum(outline[:count] - [0.004, 0], 0.0) + [0, 0.003]
        body = body[body[:, 0] > 0.006]  # not down the stem
        if len(body) > 2:
            column = np.concatenate([[[0.0, body[0, 1]]], body, [[0.0, body[-1, 1]]]]).astype(np.float32)
            stage.lathe(column, "Drink", drink).parent = piece
    return piece


def glass_outline(make: str, rng: np.random.Generator) -> Array:
    """(N, 2) radius and height of the outside, from the foot to the rim, metres."""
    t = np.linspace(0, 1, 40)
    if make == "tumbler":
        height, foot, rim = rng.uniform(0.08, 0.17), rng.uniform(0.025, 0.04), rng.uniform(0.03, 0.05)
        radius = foot + (rim - foot) * t + rng.normal(0, 0.004) * np.sin(np.pi * t)
    elif make == "goblet":
        height, bowl = rng.uniform(0.14, 0.24), rng.uniform(0.028, 0.05)
        stem = rng.uniform(0.35, 0.55)
        s = np.clip((t - stem) / (1 - stem), 0, 1)
        radius = (
            0.004
            + 0.032 * np.exp(-((t / 0.05) ** 2))
            + bowl * np.sin(np.pi * (0.02 + rng.uniform(0.55, 0.8) * s)) * (t > stem)
        )
    elif make == "bottle":
        height, body, neck = rng.uniform(0.2, 0.34), rng.uniform(0.028, 0.05), rng.uniform(0.011, 0.017)
        shoulder = rng.uniform(0.5, 0.7)
        s = np.clip((t - shoulder) / rng.uniform(0.1, 0.25), 0, 1)
        radius = body + (neck - body) * s * s * (3 - 2 * s)
    else:
        height, wide = rng.uniform(0.05, 0.25), rng.uniform(0.05, 0.12)
        radius = wide * (
            0.4 + 0.6 * np.sin(np.pi * (0.05 + rng.uniform(0.45, 0.85) * t)) + 0.06 * np.sin(rng.uniform(2, 9) * t)
        )
    return np.stack([np.maximum(radius, 0.003), height * t], -1).astype(np.float32)


def crumple(rng: np.random.Generator, cloth: bool) -> Array:
    """(rows, columns, 3): a hanging cloth with folds, or a crumpled foil, about half a metre."""
    rows, columns = 90, 90
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    depth = np.zeros_like(u)
    for _ in range(5 if cloth else 12):
        along, down = (rng.uniform(8, 40), rng.uniform(0, 5)) if cloth else rng.uniform(-25, 25, 2)
        depth += (
            rng.normal(0, 0.012) * np.sin(along * u + down * v + rng.uniform(0, 6.28)) * ((0.3 + v) if cloth else 1)
        )
    width, height = rng.uniform(0.2, 0.6, 2)
    x = (u - 0.5) * width * (1 + rng.uniform(-0.3, 0.4) * v) + 0.3 * depth
    z = (0.5 - v) * height + 0.02 * np.sin(rng.uniform(3, 12) * u + rng.uniform(0, 6)) * v
    return np.stack([x, depth, z], -1).astype(np.float32)


BUILDERS: dict[str, Callable[[Shot, dict[str, Path], np.random.Generator, Any], Place]] = {
    "glass": build_glass,
    "fur": build_fur,
    "hair": build_person,
    "person": build_person,
    "held": build_person,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Render subjects with exact alpha into a training pool.")
    parser.add_argument("--packages", type=Path, required=True, help="folder with sweethome3d-furniture_*.deb")
    parser.add_argument("--hdri", type=Path, required=True, help="folder of environment maps, *.hdr")
    parser.add_argument("--output", type=Path, required=True, help="the pool")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="begin at this number of the series")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=768, help="pixels, of the square frame")
    parser.add_argument("--samples", type=int, default=32, help="rays per pixel for colour, which is denoised")
    parser.add_argument("--alpha_samples", type=int, default=64, help="rays per pixel for alpha, which is not")
    parser.add_argument("--clips", action="store_true", help="moving clips instead of stills")
    parser.add_argument("--frames", type=int, default=8, help="of a clip")
    parser.add_argument("--kinds", nargs="+", choices=sorted(SHARES), help="only these")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    for name in ("size", "samples", "alpha_samples", "frames", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected 1 or more; got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    main(parse_args())
