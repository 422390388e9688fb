"""Result files of any framework: layouts, shards, lists of images; what wrong ones look like."""

import contextlib
import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_eql.evaluation import compare_files
from mmdet_eql.evaluation.comparison_plot import plot_files
from mmdet_eql.evaluation.result_mistakes import describe_limits
from mmdet_eql.evaluation.tables import category_comparison, comparison_csv, comparison_json
from mmdet_eql.utils import figure_file
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import (
    counted_in_training,
    evaluate_files,
    make_federated_set,
    save,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def boxes():
    return make_federated_set(3)


@pytest.fixture(scope="module")
def masks():
    return make_federated_set(3, masks=True)


@pytest.fixture
def files(boxes, tmp_path):
    return save(tmp_path, *boxes)


@pytest.fixture
def expected(files):
    return evaluate_files(*files).metrics()


def write(path, records):
    text = json.dumps(records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


# Fields in the order in which these projects write them.


def mmdetection(record):
    """YOLO-World's files, too, which come from mmdet's ``LVISMetric``."""
    return {key: record[key] for key in ("image_id", "bbox", "score", "category_id")}


def ultralytics(record):
    record = {"file_name": f"{record['image_id']:012}.jpg", **record}
    keys = "image_id", "file_name", "category_id", "bbox", "score"
    return {key: record[key] for key in keys}


def grounding_dino(record):
    box = [float(value) for value in record["bbox"]]
    ids = {key: record[key] for key in ("image_id", "category_id")}
    return {**ids, "bbox": box, "score": record["score"]}


def detectron2(record):
    rle = {"size": [4, 4], "counts": "0`0"}
    return {**grounding_dino(record), "segmentation": rle, "keypoints": [1.0, 2.0, 0.5]}


@pytest.mark.parametrize("layout", [mmdetection, ultralytics, grounding_dino, detectron2])
def test_layouts_of_boxes(layout, boxes, files, expected, tmp_path):
    results = [layout(record) for record in boxes[1]]
    (file,) = compare_files(files[0], [write(tmp_path / "a.json", results)])
    assert file.metrics == expected


@pytest.mark.parametrize("with_boxes", [True, False])
def test_layouts_of_masks(with_boxes, masks, tmp_path):
    """detectron2 and MMDetection write boxes beside masks; lvis-api measures them by the boxes."""
    data, results = masks
    ann_file, path = save(tmp_path, data, results)
    expected = evaluate_files(ann_file, path, "segm").metrics()
    if with_boxes:
        boxes = [mask_utils.toBbox(record["segmentation"]).tolist() for record in results]
        results = [{**r, "bbox": box} for r, box in zip(results, boxes, strict=True)]
        with pytest.warns(UserWarning, match="go by the areas of the boxes"):
            (file,) = compare_files(ann_file, [write(tmp_path / "a.json", results)], "segm")
    else:
        (file,) = compare_files(ann_file, [path], "segm")
    for name in ("AP", "AP50", "AP75", "APr", "APc", "APf"):
        assert file.metrics[name] == expected[name]


def test_groups_by_the_counts_of_the_training_set(boxes, expected, tmp_path):
    data, training = counted_in_training(boxes[0])
    ann_file, results = save(tmp_path, data, boxes[1])
    train = write(tmp_path / "train.json", training)
    (file,) = compare_files(ann_file, [results], train_ann_file=Path(train))
    assert file.metrics == expected
    training["categories"][0]["name"] = "unicorn"
    train = write(tmp_path / "other.json", training)
    with pytest.raises(UserError, match=f"{train}: has no category 'category_"):
        compare_files(ann_file, [results], train_ann_file=train)


def test_several_files_side_by_side(boxes, files, tmp_path):
    other = write(tmp_path / "b.json", boxes[1][::2])
    both = compare_files(files[0], [files[1], other])
    assert [file.results for file in both] == [files[1], other]
    for file in both:
        assert file.metrics == evaluate_files(files[0], file.results).metrics()
    content = json.loads(comparison_json(both, classwise=True))
    assert [one["metrics"] for one in content] == [file.metrics for file in both]
    rows = list(csv.DictReader(comparison_csv(both, classwise=True).splitlines()))
    category_ap = both[1].evaluation.category_ap()
    for category, ap in zip(content[1]["categories"], category_ap, strict=True):
        assert category["AP"] == (None if np.isnan(ap) else ap)
        of_category = f"AP of {category['name']}"
        (value,) = (
            r["value"] for r in rows if r["results"] == other and r["metric"] == of_category
        )
        assert value == ("" if np.isnan(ap) else repr(ap.item()))
    lines = category_comparison(both).splitlines()
    assert len(lines) == 2 + len(category_ap)
    assert len({len(line) for line in lines}) == 1


# --- shards, gzip, lists of images ----------------------------------------------------------------


def test_compressed_files(boxes, files, expected, tmp_path):
    truth = write(tmp_path / "truth.json.gz", boxes[0])
    results = write(tmp_path / "results.json.gz", boxes[1])
    assert evaluate_files(truth, results).metrics() == expected
    (tmp_path / "cut.json.gz").write_bytes(Path(results).read_bytes()[:-200])
    for args in ((truth, str(tmp_path / "cut.json.gz")), (str(tmp_path / "cut.json.gz"), results)):
        with pytest.raises(
            UserError, match=r"cut\.json\.gz: cannot be read \(its gzip data is cut"
        ):
            evaluate_files(*args)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_shards(kind, boxes, masks, tmp_path):
    data, results = boxes if kind == "bbox" else masks
    ann_file, path = save(tmp_path, data, results)
    expected = evaluate_files(ann_file, path, kind).metrics()
    folder = tmp_path / "[shards]"
    folder.mkdir()
    for rank in range(3):
        of_rank = [record for record in results if record["image_id"] % 3 == rank]
        write(folder / f"part-{rank}.json{'.gz' if rank == 1 else ''}", of_rank)
    write(folder / "part-3.json", [])
    for place in (str(folder), str(tmp_path / "[[]shards]" / "part-*.json*")):
        (file,) = compare_files(ann_file, [place], kind)
        assert file.metrics == pytest.approx(expected, abs=1e-12)
    # A sampler that pads the last batches has an image predicted twice.
    repeated = results[0]["image_id"]
    write(folder / "part-4.json", [r for r in results if r["image_id"] == repeated])
    with pytest.warns(UserWarning, match="1 images are in more than one shard"):
        (file,) = compare_files(ann_file, [str(folder)], kind)
    assert file.metrics == pytest.approx(expected, abs=1e-12)


def test_a_plot_names_a_folder_of_shards(boxes, files, tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "part-0.json", boxes[1])
    drawn = []
    monkeypatch.setattr(figure_file, "save_figure", lambda figure, path: drawn.append(figure))
    plot_files(compare_files(files[0], [files[1], f"{tmp_path}/shards/"]), "a.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["results.json", "shards"]


def test_no_shards(files, tmp_path):
    for place in (tmp_path / "*.nothing", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="no result files"):
            compare_files(files[0], [str(place)])


@pytest.mark.parametrize(
    ("layout", "federated"),
    [("ids", True), ("annotations", True), ("lines", True), ("names", True), ("ids", False)],
)
def test_a_list_of_images(layout, federated, tmp_path):
    """As if annotation file and results had no other images."""
    data, results = make_federated_set(5, num_images=6, masks=True)
    if not federated:
        for image in data["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    images = data["images"][::2]
    ids = [image["id"] for image in images]
    content = {
        "ids": json.dumps(ids),
        "annotations": json.dumps({"images": images}),
        "lines": "\ufeff" + "\r\n".join(map(str, ids)) + "\r\n",  # as Windows programs write it
        "names": "\n".join(f"./val2017/{image_id:012}.jpg" for image_id in ids),
    }
    (tmp_path / "list").write_text(content[layout])
    files = save(tmp_path, data, results)
    warned = contextlib.nullcontext() if federated else pytest.warns(UserWarning, match="in COCO;")
    with warned:
        paths = [Path(file) for file in files]
        (chosen,) = compare_files(paths[0], paths[1:], "segm", tmp_path / "list")
    small = {
        **data,
        "images": images,
        "annotations": [a for a in data["annotations"] if a["image_id"] in ids],
    }
    files = save(tmp_path, small, [r for r in results if r["image_id"] in ids])
    assert chosen.metrics == evaluate_files(*files, "segm").metrics()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 10000000]", "has no image 10000000, nor 0 others"),
        ("cat.jpg", "'cat' is no image id"),
        ("[]", "it is empty"),
        ('{"images": 5}', "is no image id"),
        ("[" * 100_000, "is no image id"),
    ],
)
def test_bad_lists_of_images(content, problem, boxes, files, tmp_path):
    (tmp_path / "list").write_text(content.replace("[1,", f"[{boxes[0]['images'][0]['id']},"))
    with pytest.raises(UserError, match=problem):
        compare_files(files[0], [files[1]], images=str(tmp_path / "list"))


def test_an_empty_list_of_images(files):
    with pytest.raises(UserError, match="images is empty; give image ids"):
        compare_files(files[0], [files[1]], images=[])


# --- wrong files ----------------------------------------------------------------------------------


def many_categories(data, number):
    """The same annotations in a file with as many categories as LVIS, from 1 on."""
    used = {category["id"] for category in data["categories"]}
    more = [{"id": i, "name": f"more {i}"} for i in range(1, number + 1) if i not in used]
    more = [{**category, "frequency": "r"} for category in more]
    return {**data, "categories": [*data["categories"], *more]}


def percent(data, results):
    return data, [{**r, "score": 100 * r["score"]} for r in results]


def corners(data, results):
    boxes = [r["bbox"] for r in results]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    return data, [{**r, "bbox": box} for r, box in zip(results, boxes, strict=True)]


def centres(data, results):
    boxes = [r["bbox"] for r in results]
    boxes = [[x + width / 2, y + height / 2, width, height] for x, y, width, height in boxes]
    return data, [{**r, "bbox": box} for r, box in zip(results, boxes, strict=True)]


def relative(data, results):
    return data, [{**r, "bbox": [value / 400 for value in r["bbox"]]} for r in results]


def resized(data, results):
    return data, [{**r, "bbox": [5 * value for value in r["bbox"]]} for r in results]


def version_05(data, results):
    results = [{**r, "category_id": i % 1230 + 1} for i, r in enumerate(3 * results)]
    return many_categories(data, 1203), results


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def coco_ids(data, results):
    results = [{**r, "category_id": COCO_IDS[i % 80]} for i, r in enumerate(results)]
    return many_categories(data, 1203), results


def coco_ids_unknown(data, results):
    return data, [{**r, "category_id": COCO_IDS[i % 80]} for i, r in enumerate(results)]


def labels(data, results):
    results = [{**r, "category_id": r["category_id"] - 1} for r in results]
    return many_categories(data, 1203), [{**results[0], "category_id": 0}, *results]


def another_order(data, results):
    ids = sorted(category["id"] for category in data["categories"])
    other = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    return data, [{**r, "category_id": other[r["category_id"]]} for r in results]


def text_ids(data, results):
    return data, [{**r, "image_id": f"{r['image_id']:012}"} for r in results]


def another_split(data, results):
    return data, [{**r, "image_id": r["image_id"] + 1000} for r in results]


def another_split_as_floats(data, results):
    return data, [{**r, "image_id": r["image_id"] + 1000.0} for r in results]


def joined_twice(data, results):
    return data, results + results[::2]


def larger_set(data, results):
    return data, [*results, {**results[0], "image_id": 1000}]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (percent, "its scores reach .* look like percent; divide them by 100"),
        (corners, "leave their image; they look like corners x1, y1, x2, y2"),
        (centres, "leave their image; they look like centres"),
        (relative, "between 0 and 1 and look relative"),
        (resized, "look like boxes of images of another size"),
        (version_05, r"ids up to 1,230 look like LVIS v0\.5"),
        (coco_ids, "only ids up to 90 occur, which look like the 80 categories of COCO"),
        (coco_ids_unknown, "they look like the ids of the 80 COCO categories"),
        (labels, "they begin at 0 and look like labels"),
        (another_order, "classes look to be in another order, or of another LVIS version"),
        (another_split, "none of its images is, so that it looks like results of another split"),
        (
            another_split_as_floats,
            "none of its images is, so that it looks like results of another",
        ),
        (text_ids, "write ids as whole numbers"),
        (joined_twice, "33% of its detections are the same as another one"),
        (larger_set, "1 of its .* images are not"),
    ],
)
def test_a_wrong_file_is_named(spoil, sentence, tmp_path):
    files = save(tmp_path, *spoil(*make_federated_set(4, num_images=30)))
    with pytest.raises(UserError, match=f"{files[1]}: .*{sentence}") as error:
        compare_files(files[0], [files[1]])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(8))
def test_right_files_are_not_suspected(seed, tmp_path):
    rng = np.random.default_rng(seed)
    data, results = make_federated_set(seed, num_images=20)
    # A poor model has low AP, and no mistake.
    ids = [category["id"] for category in data["categories"]]
    poor = [{**r, "category_id": int(rng.choice(ids))} for r in results]
    constant = [{**r, "category_id": ids[0]} for r in results]
    constant[0]["score"] = np.nextafter(1, 2)  # as the weighted mean of models may be
    for records in (results, poor, constant):
        ann_file, path = save(tmp_path, data, records)
        compare_files(ann_file, [path])


def test_results_on_a_part_of_the_images(boxes, files, tmp_path):
    data, results = boxes
    ids = [image["id"] for image in data["images"][:3]]
    part = write(tmp_path / "part.json", [r for r in results if r["image_id"] in ids])
    with pytest.warns(UserWarning, match=r"part\.json: has no detection in 9 of the 12 images"):
        compare_files(files[0], [part])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_files(files[0], [part], images=ids)
        compare_files(files[0], [files[1]])


def hundreds_of_categories(path, num_images=30, num_categories=600):
    """An annotation file with little in it, and five detections in each image."""
    image = {"height": 50, "width": 50, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **image} for i in range(num_images)],
        "categories": [{"id": i, "name": str(i), "frequency": "r"} for i in range(num_categories)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 0, "bbox": [0, 0, 9, 9]}],
    }
    records = [
        {"image_id": i, "category_id": 100 * k, "bbox": [k, k, 9, 9], "score": 0.02 * k + 1e-3}
        for i in range(num_images)
        for k in range(5)
    ]
    return write(path, data), records


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda records: records, {}, "100% of the images have exactly 5 detections .* 300 count"),
        (lambda records: records, {"fixed_ap": 9}, "Fixed AP and pooled AP have no limit"),
        (lambda records: [r for r in records if r["image_id"]], {}, "in 1 of the 30 .* give all"),
    ],
)
def test_files_that_are_cut_are_named(change, options, sentence, tmp_path):
    ann_file, records = hundreds_of_categories(tmp_path / "a.json")
    records = change(records)
    with pytest.warns(UserWarning) as caught:
        compare_files(ann_file, [write(tmp_path / "b.json", records)], **options)
    assert re.search(sentence, " ".join(str(one.message) for one in caught))


def test_whole_files_and_small_sets_are_not_suspected():
    whole = np.arange(100), 1e-4, 1203
    assert describe_limits(*whole) is None
    assert describe_limits(np.full(100, 300), 1e-4, 1203) is None
    assert "have exactly 300" in describe_limits(np.full(100, 300), 1e-4, 1203, np.inf)
    # More are asked for than the model gives, whatever the categories.
    assert "300; 1000 count, and" in describe_limits(np.full(100, 300), 0.05, 80, 1000)
    assert describe_limits(np.full(100, 1000), 0.05, 80, 1000) is None
    assert "have exactly 100" in describe_limits(np.arange(120).clip(max=100), 1e-4, 1203)
    assert "no score is below 0.05" in describe_limits(np.arange(100), 0.05, 1203)
    assert describe_limits(np.full(100, 100), 0.05, 80) is None
    assert describe_limits(np.zeros(0, int), 0, 1203) is None


def test_masks_in_another_order(masks, tmp_path):
    data, results = another_order(*make_federated_set(4, num_images=30, masks=True))
    ann_file, path = save(tmp_path, data, results)
    with pytest.raises(UserError, match="in another order"):
        compare_files(ann_file, [path], "segm")


# --- the command ----------------------------------------------------------------------------------

BLOCKED = """
import os, runpy, sys
known = {*sys.stdlib_module_names, "mmdet_eql", "arguments", *sys.argv[1].split()}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in known and name[0] != "_":  # _sysconfigdata_...
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocker())
import mmdet_eql.evaluation  # as a library, too
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as Python does with a script
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("iou_type", ["bbox", "boundary"])
def test_the_command_with_the_packages_of_the_docs_alone(iou_type, boxes, masks, tmp_path):
    files = save(tmp_path, *(boxes if iou_type == "bbox" else masks))
    expected = evaluate_files(*files, iou_type).metrics()
    docs = (REPOSITORY / "docs" / "evaluation.md").read_text()
    packages = re.findall(r"[a-z]\w*", re.search(r"^pip install (.*)", docs, re.M)[1])
    out = tmp_path / "out.json"
    script = REPOSITORY / "tools" / "evaluate.py"
    options = ["--fixed-ap", "--pooled-ap", "50", "--bootstrap", "10", "--classwise", "--errors"]
    options += ["--iou-type", iou_type]
    options += ["--json", out, "--csv", tmp_path / "new" / "out.csv"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, " ".join(packages), script, *files, files[1], *options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert [one["results"] for one in content] == [files[1]] * 2
    for one in content:
        assert {name: one["metrics"][name] for name in expected} == expected
        assert {"fixed_APr", "pooled_APf"} <= set(one["metrics"])
        low, high = one["intervals"]["AP"]
        assert low < expected["AP"] < high
    assert content[1]["gain"]["intervals"]["APr"] == [0, 0]
    assert f"{100 * expected['AP']:.2f}" in done.stdout
    assert (
        f"warning: {files[1]}: 9 of the 9 categories have fewer than 10,000 detections"
        in done.stderr
    )
    assert (tmp_path / "new" / "out.csv").read_text().startswith("results,metric,value\n")


def test_the_command_where_nobody_reads_its_tables(files, expected, tmp_path):
    """As of `head`, which ends before the command."""
    script, out = REPOSITORY / "tools" / "evaluate.py", tmp_path / "out.json"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, script, *files, "--json", out]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == -signal.SIGPIPE
    assert done.stderr == b""
    assert json.loads(out.read_text())[0]["metrics"] == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--csv", "annotations.json/out.csv"], "annotations.json/out.csv: cannot be written"),
        (["--json", "./nowhere.json"], "./nowhere.json: is read, or written twice"),
        (["--json", "out", "--csv", "out"], "out: is read, or written twice"),
    ],
)
def test_files_that_cannot_be_written_are_told_first(options, sentence, files, call_tool):
    done = call_tool("evaluate.py", files[0], "nowhere.json", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_numbers_of_the_command(number, files):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "evaluate.py", *files, "--fixed-ap", number],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"--fixed-ap: invalid positive value: '{number}'" in done.stderr
