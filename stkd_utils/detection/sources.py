"""Images with boxes in the folders of the PASCAL VOC challenge: reading, checking and fetching them."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image

from ..readers.decoded import picture
from ..sources import DataDamaged, DataError, DataNotFound, deliver, root_folder
from .augmentation import resize

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
KEEP_BYTES = 2**30  # decoded images are kept in memory up to here
_MEGABYTES = {"2007 trainval": 460, "2007 test": 451, "2012 trainval": 2000}
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, eq=False)
class Split:
    """Images in files and the objects in them, one entry per image in each tuple.

    ``ids``: names like "2007/000005". ``files``: paths of the images. ``sizes``: int64 (N, 2), height and width in
    pixels. ``boxes``: float32 (n, 4), x1 y1 x2 y2 as fractions of width and height. ``labels``: int64 (n,), 1 is the
    first class. ``difficult``: bool (n,). Introduced in notebook 05.
    """

    ids: tuple
    files: tuple
    sizes: torch.Tensor
    boxes: tuple
    labels: tuple
    difficult: tuple
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    def __len__(self):
        return len(self.ids)

    def take(self, index):
        """The images at ``index`` (positions, int64 (n,)), as a Split."""
        chosen = index.tolist()
        columns = (self.ids, self.files, self.boxes, self.labels, self.difficult)
        ids, files, *objects = (tuple(column[i] for i in chosen) for column in columns)
        return Split(ids, files, self.sizes[index], *objects)

    def image(self, position):
        """Image ``position`` as uint8 (3, H, W), RGB also when the file is grey. Raises `DataDamaged`.

        A split whose decoded images fit into `KEEP_BYTES` keeps them in memory: do not write into them.
        """
        images = self._kept.setdefault("images", {})
        if position in images:
            return images[position]
        image = picture(self.files[position])
        if 3 * int(self.sizes.prod(dim=1).sum()) <= KEEP_BYTES:
            images[position] = image
        return image

    def resized(self, positions, size):
        """The images at ``positions`` (int64 (n,)), resized: uint8 (n, 3, size, size). Raises `DataDamaged`.

        A split that fits into `KEEP_BYTES` at this size is resized as a whole the first time, and kept.
        """
        if size in self._kept:
            return self._kept[size][positions]
        if len(self) * 3 * size**2 > KEEP_BYTES:
            return torch.stack([resize(self.image(i), size) for i in positions.tolist()])
        self._kept[size] = torch.stack([resize(self.image(i), size) for i in range(len(self))])
        return self._kept[size][positions]

    def objects(self, position):
        """Boxes (n, 4) and labels (n,) of image ``position``, without the difficult ones, which nobody learns from."""
        wanted = ~self.difficult[position]
        return self.boxes[position][wanted], self.labels[position][wanted]

    def truths(self):
        """The objects of each image, in order: a list of {"boxes", "labels", "difficult"}."""
        columns = zip(self.boxes, self.labels, self.difficult, strict=True)
        return [dict(zip(("boxes", "labels", "difficult"), row, strict=True)) for row in columns]


def read(root, sets, class_names):
    """A `Split` of the ``sets`` (like ["2007 trainval", "2012 trainval"]) in a folder in VOC layout.

    Lists, annotations and images lie in ImageSets/Main, Annotations and JPEGImages of ``root``/VOCdevkit/VOC<year>.
    The files hold inclusive pixels that start at 1; a box becomes (xmin - 1, ymin - 1, xmax, ymax) over width and
    height. Label k is ``class_names[k - 1]``. Every annotation is checked, and every image as far as its size.

    Raises `DataNotFound` for a missing file, `DataDamaged` for one that does not hold what it should, `DataError` for
    an unknown class or an image that is listed twice. Introduced in notebook 05.
    """
    numbers = {name: number for number, name in enumerate(class_names, start=1)}
    ids, files, sizes, objects = [], [], [], []
    for folder, stem in (entry for name in sets for entry in _listed(Path(root), name)):
        ids.append(f"{folder.name.removeprefix('VOC')}/{stem}")
        files.append(folder / "JPEGImages" / f"{stem}.jpg")
        height, width = _image_size(files[-1])
        sizes.append((height, width))
        objects.append(_objects(folder / "Annotations" / f"{stem}.xml", height, width, numbers))
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"The image {twice} is listed more than once in {', '.join(sets)}; choose sets that differ.")
    columns = (tuple(column) for column in zip(*objects, strict=True)) if objects else ((), (), ())
    return Split(tuple(ids), tuple(files), torch.tensor(sizes, dtype=torch.int64).view(-1, 2), *columns)


def fetch(name, root=None):
    """Folder that now holds the files of ``name`` ("voc"): the sets 2007 trainval, 2007 test and 2012 trainval.

    Downloads what is absent or damaged, and says how much first; torchvision checks the archives, which stay beside the
    files. Raises `DataNotFound` when they cannot be had, `DataError` for another name. Introduced in notebook 05.
    """
    if name != "voc":
        raise DataError(f"Only voc can be fetched; got {name!r}.")
    root = root_folder(root)
    wanted = [part for part in _MEGABYTES if not _is_here(root, part)]
    if not wanted:
        print(f"{name} is in {root}: nothing to fetch.")
        return root
    size = sum(_MEGABYTES[part] for part in wanted)
    return deliver(name, root, size, partial(_download, root, wanted))


def _download(root, parts):
    from filelock import FileLock
    from torchvision.datasets import VOCDetection

    with FileLock(root / ".voc.lock"):
        for part in parts:
            year, image_set = part.split()
            VOCDetection(root, year=year, image_set=image_set, download=True)


def _is_here(root, part):
    try:
        read(root, [part], VOC_CLASSES)
    except (DataNotFound, DataDamaged):
        return False
    return True


def _listed(root, name):
    """(folder of the year, name of the image without suffix) of each image of a set."""
    year, _, part = name.partition(" ")
    folder = root / "VOCdevkit" / f"VOC{year}"
    file = folder / "ImageSets" / "Main" / f"{part}.txt"
    if not file.is_file():
        raise _not_found(file)
    return [(folder, stem) for stem in file.read_text().split()]


def _not_found(file):
    return DataNotFound(
        f"{file} is missing; get PASCAL VOC with `python -m stkd_utils data voc` (STKD_DATA chooses the folder)."
    )


def _damaged(file, what):
    return DataDamaged(f"{file} is damaged ({what}); replace it.")


def _image_size(file):
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except FileNotFoundError as error:
        raise _not_found(file) from error
    except OSError as error:
        raise _damaged(file, "not an image") from error


def _objects(file, height, width, numbers):
    """(boxes, labels, difficult) of one annotation, as in `Split`; checks all that a training relies on."""
    try:
        node = ElementTree.parse(file).getroot()
        noted = tuple(int(node.findtext(f"size/{side}")) for side in ("height", "width"))
        found = [_object(entry) for entry in node.findall("object")]
    except FileNotFoundError as error:
        raise _not_found(file) from error
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise _damaged(file, "not an annotation of VOC") from error
    if noted != (height, width):
        raise _damaged(file, f"it says {noted[1]} x {noted[0]} pixels, the image has {width} x {height}")
    for name, _, (left, top, right, bottom) in found:
        if name not in numbers:
            raise DataError(f"{file} has an object {name!r}, which is none of the {len(numbers)} classes asked for.")
        if not (1 <= left <= right <= width and 1 <= top <= bottom <= height):
            raise _damaged(file, f"the box {left:g}, {top:g}, {right:g}, {bottom:g} is empty or outside the image")
    boxes = torch.tensor([box for _, _, box in found], dtype=torch.float64).view(-1, 4)
    boxes = (boxes - torch.tensor([1, 1, 0, 0])) / torch.tensor([width, height, width, height])
    labels = torch.tensor([numbers[name] for name, _, _ in found], dtype=torch.int64)
    return boxes.float(), labels, torch.tensor([difficult for _, difficult, _ in found], dtype=torch.bool)


def _object(node):
    """(class name, difficult or not, box in pixels) of one object of an annotation."""
    box = [float(node.findtext(f"bndbox/{edge}")) for edge in _EDGES]
    return node.findtext("name"), bool(int(node.findtext("difficult", "0"))), box
