"""Digit scenes: small colour images of handwritten digits on cluttered grounds, in the folders of PASCAL VOC."""

import colorsys
import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from .. import sources
from ..seeding import stream_seed

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTS = {"train": 1500, "val": 300, "test": 400}
MOST = 3  # digits in a scene
HEIGHTS = (20, 56)  # of a digit, in pixels of a scene of 96
TINY, FAINT, HIDDEN = 22, 0.22, 0.5  # what makes a digit difficult, see `write`
HIDEABLE = 0.35  # no digit is drawn that leaves less of another one uncovered
_ANNOTATION = "<annotation><size><width>{0}</width><height>{0}</height><depth>3</depth></size>{1}</annotation>\n"
_OBJECT = (
    "<object><name>{}</name><difficult>{:d}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def write(folder, *, seed=0, counts=COUNTS, size=96):
    """Composes scenes and writes them as VOC2007 below ``folder``: lists train, val, trainval and test.

    A scene is ``size`` pixels wide and high and holds up to `MOST` digits of scikit-learn, light on a darker ground,
    which may overlap and are `HEIGHTS` pixels high where ``size`` is 96; a few have none, or only difficult ones. A
    digit is difficult when it is tiny (below `TINY` pixels high at size 96), faint (its colour is closer to the
    ground's mean below it than `FAINT`, in RGB of the scale 0..1) or hidden (less than `HIDDEN` of its ink is
    uncovered). Digits of the test scenes come from the test split of the data set "digits", all others from its
    learning part. Equal arguments, equal bytes on one machine. Introduced in notebook 05.
    """
    learn, test, _ = sources.read("digits")
    base = Path(folder) / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / part).mkdir(parents=True, exist_ok=True)
    lists, number = {}, 0
    for part in ("train", "val", "test"):
        glyphs = _glyphs(test if part == "test" else learn)
        chance = np.random.default_rng(stream_seed(seed, f"{part} scenes"))
        lists[part] = [f"{number + i:06d}" for i in range(1, counts[part] + 1)]
        number += counts[part]
        for stem in lists[part]:
            picture, objects = _scene(glyphs, size, chance)
            picture.save(base / "JPEGImages" / f"{stem}.jpg", quality=95, subsampling=0)
            text = _ANNOTATION.format(size, "".join(_OBJECT.format(*entry) for entry in objects))
            (base / "Annotations" / f"{stem}.xml").write_text(text)
    for part, stems in {**lists, "trainval": lists["train"] + lists["val"]}.items():
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def ensure(root):
    """Folder of the scenes below ``root``, written if it is absent or if any of its files has changed.

    Its name carries a hash of this module, so that scenes are written anew when the way to compose them changes.
    Introduced in notebook 05.
    """
    from filelock import FileLock

    root = Path(root)
    folder = root / f"digit-scenes-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".digit-scenes.lock"):
        if _is_whole(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = Path(mkdtemp(prefix=".digit-scenes-", dir=root))
        try:
            write(unfinished)
            (unfinished / "SHA256").write_text(_checksum(unfinished))
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _is_whole(folder):
    noted = folder / "SHA256"
    return noted.is_file() and noted.read_text() == _checksum(folder)


def _checksum(folder):
    digest = hashlib.sha256()
    for file in sorted((folder / "VOCdevkit").rglob("*.*")):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _glyphs(split):
    """(ink as a grey image with an empty edge around it, label) of each digit."""
    images = (Image.fromarray(image) for image in split.images[:, 0].numpy())
    cut = (ImageOps.expand(image.crop(image.getbbox()), border=1) for image in images)
    return list(zip(cut, split.labels.tolist(), strict=True))


@dataclass(frozen=True)
class _Digit:
    label: int
    difficult: bool
    ink: int  # number of its pixels, covered or not
    edges: tuple
    colour: np.ndarray


class _Palette:
    """The colours of one scene, grey ones unless ``vivid``."""

    def __init__(self, chance, vivid):
        self.chance, self.vivid = chance, vivid
        self.hue = chance.random()

    def _hsv(self, hue, saturation, value):
        return np.array(colorsys.hsv_to_rgb(hue % 1, saturation * self.vivid, value), dtype=np.float32)

    def grounds(self):
        """Two related colours for the ground and one for what clutters it."""
        values = self.chance.uniform(0.08, 0.5, 3)
        return [self._hsv(self.hue + self.chance.normal(0, 0.07), self.chance.uniform(0.1, 0.5), v) for v in values]

    def loud(self, others):
        """Of a few light colours the one that stands out most from ``others``."""
        draw = self.chance.uniform
        choices = np.stack([self._hsv(draw(), draw(0, 0.6), draw(0.8, 1)) for _ in range(5)])
        distance = np.linalg.norm(choices[:, None] - np.stack(others), axis=2)
        return choices[distance.min(axis=1).argmax()]

    def faint(self, below):
        """A colour that is hardly different from the one ``below``."""
        return (below + self.chance.uniform(0.06, 0.11)).clip(0, 1).astype(np.float32)


def _scene(glyphs, size, chance):
    """One scene: (picture, [(class name, difficult, xmin, ymin, xmax, ymax)]), in VOC's inclusive pixels from 1."""
    palette = _Palette(chance, vivid=chance.random() > 0.15)
    canvas = _ground(glyphs, size, palette, chance)
    owner = np.zeros((size, size), dtype=np.int64)  # number of the digit on top
    digits, kind = [], chance.random()
    for _ in range(0 if kind < 1 / 30 else chance.integers(1, MOST + 1)):
        _place(canvas, owner, digits, glyphs, palette, chance, always_faint=kind > 29 / 30)
    uncovered = np.bincount(owner.ravel(), minlength=len(digits) + 1)
    objects = [
        (CLASSES[digit.label], digit.difficult or uncovered[i] < HIDDEN * digit.ink, *digit.edges)
        for i, digit in enumerate(digits, start=1)
    ]
    canvas += chance.uniform(0, 0.02) * chance.standard_normal((size, size, 1), dtype=np.float32)
    return Image.fromarray((canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)), objects


def _place(canvas, owner, digits, glyphs, palette, chance, always_faint):
    """Draws one more digit, unless it would hide too much of another; owner and digits take note of it."""
    size = len(owner)
    glyph, label = glyphs[chance.integers(len(glyphs))]
    ink = _enlarged(glyph, HEIGHTS[0] * (HEIGHTS[1] / HEIGHTS[0]) ** chance.random() * size / 96, chance)
    rows, columns = ink.shape
    top, left = (int(chance.integers(0, size - side + 1)) for side in (rows, columns))
    place = np.s_[top : top + rows, left : left + columns]
    solid = ink > 0.5
    before, covered = (np.bincount(cells.ravel(), minlength=len(digits) + 1) for cells in (owner, owner[place][solid]))
    if any(before[i] - covered[i] < HIDEABLE * digit.ink for i, digit in enumerate(digits, start=1)):
        return
    below = canvas[place].mean(axis=(0, 1))
    if always_faint or chance.random() < 0.04:
        colour = palette.faint(below)
    else:
        colour = palette.loud([below, *(digit.colour for i, digit in enumerate(digits, start=1) if covered[i])])
    canvas[place] += ink[..., None] * (colour - canvas[place])
    owner[place][solid] = len(digits) + 1
    difficult = rows < TINY * size / 96 or bool(np.linalg.norm(colour - below) < FAINT)
    digits.append(_Digit(label, difficult, int(solid.sum()), (left + 1, top + 1, left + columns, top + rows), colour))


def _enlarged(glyph, height, chance):
    """Ink between 0 and 1, sharp at its edges, turned a little and cut to what is more than half ink."""
    factor = height / (glyph.height - 2)  # without its empty edge
    width = round(glyph.width * factor * chance.uniform(0.85, 1.2))
    large = glyph.resize((width, round(glyph.height * factor)), Image.Resampling.BICUBIC)
    large = large.rotate(chance.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)
    ink = ((np.asarray(large, dtype=np.float32) / 255 - 0.5) * min(4, factor) + 0.5).clip(0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _ground(glyphs, size, palette, chance):
    """A ground (size, size, 3) between 0 and 1: two colours that blend, then strokes, blots or pieces of digits."""
    first, second, tint = palette.grounds()
    angle = chance.uniform(0, 2 * math.pi)
    ramp = np.linspace(-0.7, 0.7, size, dtype=np.float32)
    blend = (0.5 + ramp * math.cos(angle) + ramp[:, None] * math.sin(angle)).clip(0, 1)
    ground = first + blend[..., None] * (second - first)
    strength = chance.uniform(0.25, 0.6)
    clutter = (_nothing, _blots, _strokes, _pieces)[chance.integers(4)](glyphs, size, chance)
    if clutter is not None:
        ground += strength * clutter[..., None] * (tint - ground)
    return ground


def _nothing(glyphs, size, chance):
    return None


def _blots(glyphs, size, chance):
    cells = chance.integers(3, 9)
    coarse = Image.fromarray((255 * chance.random((cells, cells))).astype(np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _strokes(glyphs, size, chance):
    sheet = Image.new("L", (2 * size, 2 * size))  # drawn at twice the size, for smooth edges
    draw = ImageDraw.Draw(sheet)
    for _ in range(chance.integers(3, 9)):
        corners = chance.integers(-size // 2, 5 * size // 2, (2, 2))
        low, high = corners.min(axis=0), corners.max(axis=0) + 1
        width = int(chance.integers(2, 9) * size / 96)
        if chance.random() < 0.5:
            draw.line([*corners[0].tolist(), *corners[1].tolist()], fill=255, width=width)
        else:
            draw.ellipse([*low.tolist(), *high.tolist()], outline=255, width=width)
    return np.asarray(sheet.reduce(2), dtype=np.float32) / 255


def _pieces(glyphs, size, chance):
    """Quarters of digits: edges and curves like those of digits, which are none."""
    sheet = np.zeros((size, size), dtype=np.float32)
    for _ in range(chance.integers(3, 9)):
        ink = _enlarged(glyphs[chance.integers(len(glyphs))][0], chance.uniform(20, 52) * size / 96, chance)
        rows, columns = (side // 2 for side in ink.shape)
        down, right = chance.integers(0, 2, 2)
        top, left = chance.integers(0, size - rows + 1), chance.integers(0, size - columns + 1)
        piece = ink[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]
        place = np.s_[top : top + rows, left : left + columns]
        sheet[place] = np.maximum(sheet[place], piece)
    return sheet
