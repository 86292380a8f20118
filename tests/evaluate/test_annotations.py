"""Objects as datasets have them: what is read, and what is said of files that are missing or broken."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastcam.evaluate.annotations import open_annotations
from fastcam.evaluate.annotations.coco import _draw, decode_counts

VOC = """<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
</object><object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>1</ymin><xmax>48</xmax><ymax>5</ymax></bndbox></object></annotation>"""


def test_voc(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.xml").write_text(VOC)
    annotation = open_annotations(tmp_path)["sub/a.jpg"]
    assert (annotation.size, annotation.reason, annotation.image_id) == ((30, 40), "", "sub/a.jpg")
    assert [(each.label, each.box, each.is_difficult) for each in annotation.regions] == [
        ("dog", (0, 2, 20, 30), False),
        ("cat", (10, 0, 40, 5), True),  # clipped to the image
    ]
    assert open_annotations(tmp_path, one_based=False)["sub/a.jpg"].regions[0].box == (1, 3, 20, 30)
    mask = annotation.mask((30, 40))
    assert mask.sum() == 20 * 28 + 30 * 5 - 10 * 3
    assert annotation.mask((30, 40), annotation.regions[1:]).sum() == 150


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (VOC[:200], "it is no XML"),
        ("<!DOCTYPE lol [<!ENTITY a 'b'>]>" + VOC, "defines entities"),
        (
            VOC.replace("<xmin>1</xmin>", "<xmin>25</xmin>"),
            "left < right and top < bottom, got 24, 2, 20, 30 in an image",
        ),
        (VOC.replace("<xmin>1</xmin>", "<xmin>nan</xmin>"), "left < right and top < bottom"),
        (VOC.replace("<xmin>1</xmin>", "<xmin>one</xmin>"), "could not convert string to float"),
        (VOC.replace("<xmin>1</xmin>", ""), "an object has no bndbox with xmin"),
        (VOC.replace("<width>40</width>", "<width>wide</width>"), "invalid literal"),
    ],
)
def test_broken_voc(tmp_path, text, reason):
    (tmp_path / "a.xml").write_text(text)
    annotation = open_annotations(tmp_path)["a.jpg"]
    assert not annotation.regions
    assert annotation.reason.startswith("the annotation cannot be read: ")
    assert reason in annotation.reason


def runs_of(mask):
    """Run lengths in the order of columns, beginning with background, as COCO counts them."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


def encode(runs):
    """The compressed form, written from the description of the format."""
    text = ""
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        while True:
            digit = value & 31
            value >>= 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def coco(tmp_path, **changes):
    mask = np.zeros((30, 40), bool)
    mask[5:9, 3:30] = mask[20:22, 0] = mask[29, 39] = True
    content = {
        "images": [
            {"id": 7, "file_name": "cats/a.jpg", "width": 40, "height": 30},
            {"id": 8, "file_name": "b.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "c.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": [2.5, 3, 10, 20], "segmentation": [[2, 3, 12, 3, 12, 23, 2, 23]]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1,
             "segmentation": {"size": [30, 40], "counts": runs_of(mask)}},
            {"image_id": 7, "category_id": 3, "segmentation": {"size": [30, 40], "counts": encode(runs_of(mask))}},
            {"image_id": 8, "category_id": 1, "bbox": [5, 5, 0, 3]},
        ],
        **changes,
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json", mask


def test_coco(tmp_path):
    file, mask = coco(tmp_path)
    annotations = open_annotations(file)
    annotation = annotations["cats/a.jpg"]
    assert annotation.size == (30, 40)
    assert [(each.label, each.box, each.is_difficult) for each in annotation.regions] == [
        ("dog", (2.5, 3, 12.5, 23), False),
        ("cat", (0, 0, 40, 30), True),
        ("3", None, False),
    ]
    polygon, runs, compressed = (each.mask((30, 40)) for each in annotation.regions)
    assert polygon[3:23, 2:12].all()  # as the box of the same corners
    assert polygon.sum() == 20 * 10
    np.testing.assert_array_equal(runs, mask)
    np.testing.assert_array_equal(compressed, mask)
    assert annotations["c.jpg"].reason == ""  # annotated, without an object
    assert "left < right" in annotations["b.jpg"].reason
    with pytest.raises(ValueError, match="the mask has 40 x 30 pixels, but the image has 30 x 40"):
        annotation.regions[1].mask((40, 30))


def test_compressed_runs():
    """A hand-made example: 6 is one digit, 40 two, and from the fourth on differences, here -5."""
    assert decode_counts("6" + chr(48 + 8 + 32) + "1" + "3" + chr(48 + 27)).tolist() == [6, 40, 3, 35]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        runs = generator.integers(1, 3000, 30).tolist()
        assert decode_counts(encode(runs)).tolist() == runs


def test_polygons_have_the_pixels_whose_centre_is_inside(tmp_path):
    """Against the even-odd rule at every centre: corners anywhere, outside too, and edges that cross."""
    generator = np.random.default_rng(0)
    for count in (3, 4, 7) * 5:
        corners = generator.uniform(-5, 45, (count, 2))
        expected = np.zeros((30, 40), bool)
        for y in range(30):
            for x in range(40):
                crossings = 0
                for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
                    if (y0 > y + 0.5) != (y1 > y + 0.5) and x + 0.5 < x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0):
                        crossings += 1
                expected[y, x] = crossings % 2 == 1
        np.testing.assert_array_equal(_draw([corners.ravel().tolist()], (30, 40)), expected)


def test_broken_coco(tmp_path):
    file, _ = coco(tmp_path)
    file.write_text(file.read_text()[:-30])
    with pytest.raises(ValueError, match="is no COCO JSON with images, annotations and categories"):
        open_annotations(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="is no COCO JSON"):
        open_annotations(file)


ROWS = [
    {"image_id": "a.jpg", "left": 1, "top": 2, "right": 5.5, "bottom": 7, "label": "dog", "difficult": 0},
    {"image_id": "b/c.jpg", "left": 0, "top": 0, "right": 3, "bottom": 3, "label": "cat", "difficult": 1},
    {"image_id": "a.jpg", "left": 4, "top": 4, "right": 6, "bottom": 6, "label": None, "difficult": None},
    {"image_id": "d.jpg", "left": 4, "top": 4, "right": 4, "bottom": 6, "label": "", "difficult": 0},
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables(tmp_path, suffix):
    file = tmp_path / f"boxes.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in ROWS]
        file.write_text("\n".join([",".join(ROWS[0]), *lines]) + "\n")
    annotations = open_annotations(file)
    assert [(each.label, each.box) for each in annotations["a.jpg"].regions] == [
        ("dog", (1, 2, 5.5, 7)),
        ("", (4, 4, 6, 6)),
    ]
    assert annotations["b/c.jpg"].regions[0].is_difficult
    assert "left < right" in annotations["d.jpg"].reason
    assert annotations["e.jpg"].reason == "there is no annotation"


def test_broken_tables(tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("image_id,left,top,right\na.jpg,1,2,3\n")
    with pytest.raises(
        ValueError, match="has no column bottom: a table of boxes has image_id, left, top, right, bottom"
    ):
        open_annotations(file)
    file.write_text("image_id,left,top,right,bottom,width,height\na.jpg,1,2,x,4,10,10\nb.jpg,1,2,90,4,10,10\n")
    annotations = open_annotations(file)
    assert annotations["a.jpg"].reason == "the annotation cannot be read: right must be a number, got 'x'"
    assert annotations["b.jpg"].regions[0].box == (1, 2, 10, 4)
    assert annotations["b.jpg"].size == (10, 10)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        open_annotations(tmp_path / "broken.parquet")


def test_masks(tmp_path):
    (tmp_path / "cats").mkdir()
    objects = np.zeros((30, 40), np.uint8)
    objects[4:9, 5:7] = 255
    Image.fromarray(objects).save(tmp_path / "cats" / "a.png")
    classes = np.zeros((30, 40), np.uint8)
    classes[:5], classes[5:8], classes[9] = 3, 12, 255
    picture = Image.fromarray(classes, "P")
    picture.putpalette([value for color in range(256) for value in (color, 0, 0)])
    picture.save(tmp_path / "b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    Image.new("L", (40, 30)).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes((tmp_path / "b.png").read_bytes()[:90])
    annotations = open_annotations(tmp_path)
    np.testing.assert_array_equal(annotations["cats/a.jpg"].mask((30, 40)), objects > 0)
    annotation = annotations["b.jpg"]
    assert [each.label for each in annotation.regions] == ["3", "12"]
    assert annotation.mask((30, 40)).sum() == 8 * 40
    assert annotation.void((30, 40)).sum() == 40
    assert annotations["cats/a.jpg"].void is None
    assert "got one of mode RGB" in annotations["c.jpg"].reason
    assert annotations["d.jpg"].regions == ()
    assert annotations["d.jpg"].reason == ""
    assert "this mask cannot be read" in annotations["e.jpg"].reason
    with pytest.raises(ValueError, match="the mask has 40 x 30 pixels, but the image has 10 x 10"):
        annotation.mask((10, 10))


def test_ids_are_joined_but_never_guessed(tmp_path):
    for name in ("a/1.xml", "b/1.xml", "b/2.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(VOC.replace("dog", name.replace("/", "-")))
    annotations = open_annotations(tmp_path)
    assert len(annotations) == 3
    for image_id, label in {"a/1.jpg": "a-1.xml", "b/1": "b-1.xml", "b/2.JPEG": "b-2.xml", "2.jpg": "b-2.xml",
                            "data/b/2.png": "b-2.xml"}.items():  # fmt: skip
        assert annotations[image_id].regions[0].label == label, image_id
    assert annotations["1.jpg"].reason == "several annotations have this name: 'a/1.xml', 'b/1.xml'"
    assert annotations["3.jpg"].reason == "there is no annotation"
    assert annotations["c/2.jpg"].reason == "there is no annotation; in another folder there is 'b/2.xml'"
    copied = pickle.loads(pickle.dumps(annotations))
    assert copied["a/1.jpg"] == annotations["a/1.jpg"]
    assert copied.digest == annotations.digest
    (tmp_path / "a" / "1.xml").write_text(VOC)
    assert open_annotations(tmp_path).digest != annotations.digest


def test_two_pictures_of_one_name(tmp_path):
    """1.jpg and 1.png are two images; a table names each, XML does not."""
    (tmp_path / "boxes.csv").write_text("image_id,left,top,right,bottom\n1.jpg,0,0,2,2\n1.png,0,0,3,3\n")
    annotations = open_annotations(tmp_path / "boxes.csv")
    assert [annotations[name].regions[0].box[2] for name in ("1.jpg", "1.png")] == [2, 3]
    assert annotations["1.webp"].reason == "several annotations have this name: '1.jpg', '1.png'"
    assert annotations["1.2"].reason == "there is no annotation"
    (tmp_path / "2007.01.XML").write_text(VOC)
    assert open_annotations(tmp_path)["2007.01"].regions


def test_paths_that_hold_no_annotations(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.xml and no \.png files"):
        open_annotations(tmp_path)
    with pytest.raises(ValueError, match=r"annotations are a folder of .* got '.*none\.json'"):
        open_annotations(tmp_path / "none.json")
