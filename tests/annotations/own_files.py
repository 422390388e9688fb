"""The same objects in the files of several programs, written field by field as those do."""

import cv2
import numpy as np
from pycocotools import mask as mask_utils

HEIGHT, WIDTH = 48, 64
NUM_IMAGES = 4
NAMES = ("cat", "dog", "emu")
#: Image, name and box (x, y, width, height) of each object; most in the right half of their image.
OBJECTS = [
    (image, NAMES[number % 3], (30 + 3 * number, 2 + 6 * number, 9 + number, 8 + image))
    for image in range(NUM_IMAGES)
    for number in range(5)
]


def write_images(folder) -> None:
    """Write 0.png to 3.png."""
    folder.mkdir(parents=True)
    for index in range(NUM_IMAGES):
        image = np.full((HEIGHT, WIDTH, 3), 40 * index, dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)


def polygon(box) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def uncompressed_rle(box) -> dict:
    """Column by column, as in COCO."""
    mask = mask_utils.decode(mask_utils.frPyObjects([polygon(box)], HEIGHT, WIDTH)[0])
    pixels = np.concatenate([[0], mask.flatten(order="F"), [2]])
    changes = np.flatnonzero(np.diff(pixels) != 0)
    return {"counts": np.diff(changes, prepend=0).tolist(), "size": [HEIGHT, WIDTH]}


def by_script() -> dict:
    """A careful script: all that COCO's own files have and evaluation needs."""
    return {
        "images": [
            {"id": index + 1, "height": HEIGHT, "width": WIDTH, "file_name": f"{index}.png"}
            for index in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": image + 1,
                "category_id": NAMES.index(name) + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [polygon(box)],
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
        "categories": [
            {"id": index + 1, "name": name, "supercategory": "animal"}
            for index, name in enumerate(NAMES)
        ],
    }


def by_cvat(masks: bool = False) -> dict:
    """CVAT, "COCO 1.0": boxes have no polygon, brush masks are RLE and a "crowd"."""
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {
            "contributor": "",
            "date_created": "",
            "description": "",
            "url": "",
            "version": "",
            "year": "",
        },
        "categories": [
            {"id": index + 1, "name": name, "supercategory": ""} for index, name in enumerate(NAMES)
        ],
        "images": [
            {
                "id": index + 1,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": f"{index}.png",
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
            for index in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": image + 1,
                "category_id": NAMES.index(name) + 1,
                "segmentation": uncompressed_rle(box) if masks else [],
                "area": float(box[2] * box[3]),
                "bbox": [float(value) for value in box],
                "iscrowd": int(masks),
                "attributes": {"occluded": False, "rotation": 0.0},
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
    }


def by_label_studio(separator: str = "/") -> dict:
    """Label Studio, "COCO": all ids from 0, images in a folder, with backslashes from Windows."""
    return {
        "images": [
            {
                "width": WIDTH,
                "height": HEIGHT,
                "id": index,
                "file_name": f"images{separator}{index}.png",
            }
            for index in range(NUM_IMAGES)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": NAMES.index(name),
                "segmentation": [],
                "bbox": [float(value) for value in box],
                "ignore": 0,
                "iscrowd": 0,
                "area": float(box[2] * box[3]),
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
        "info": {
            "year": 2024,
            "version": "1.0",
            "description": "",
            "contributor": "Label Studio",
            "url": "",
            "date_created": "2024-01-01 00:00:00.000000",
        },
    }


def by_roboflow(root: str = "animals") -> dict:
    """Roboflow, "COCO JSON": category 0 is the supercategory of the others, without annotations."""
    return {
        "info": {
            "year": "2024",
            "version": "1",
            "description": "Exported from roboflow.com",
            "contributor": "",
            "url": "https://public.roboflow.com/object-detection/undefined",
            "date_created": "2024-01-01T00:00:00+00:00",
        },
        "licenses": [{"id": 1, "url": "", "name": "Public Domain"}],
        "categories": [
            {"id": 0, "name": root, "supercategory": "none"},
            *(
                {"id": index + 1, "name": name, "supercategory": root}
                for index, name in enumerate(NAMES)
            ),
        ],
        "images": [
            {
                "id": index,
                "license": 1,
                "file_name": f"{index}.png",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2024-01-01T00:00:00+00:00",
                "extra": {"name": f"{index}.png"},
            }
            for index in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": NAMES.index(name) + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "segmentation": [],
                "iscrowd": 0,
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
    }


def by_via() -> dict:
    """VGG Image Annotator 2, "COCO format": URLs are names of files, masks are rectangles."""
    return {
        "info": {
            "year": 2024,
            "version": "1.0",
            "description": "VIA project exported to COCO format using VGG Image Annotator",
            "contributor": "",
            "url": "http://www.robots.ox.ac.uk/~vgg/software/via/",
            "date_created": "Mon Jan 01 2024 00:00:00 GMT+0000",
        },
        "images": [
            {
                "id": index + 1,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": f"{index}.png",
                "license": 0,
                "flickr_url": f"/Users/me/pictures/{index}.png",
                "coco_url": f"/Users/me/pictures/{index}.png",
                "date_captured": "",
            }
            for index in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "segmentation": [polygon(box)],
                "area": box[2] * box[3],
                "bbox": list(box),
                "iscrowd": 0,
                "id": number + 1,
                "image_id": image + 1,
                "category_id": NAMES.index(name) + 1,
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
        "licenses": [{"id": 0, "name": "Unknown License", "url": ""}],
        "categories": [
            {"supercategory": "species", "id": index + 1, "name": name}
            for index, name in enumerate(NAMES)
        ],
    }


def by_pandas() -> dict:
    """A script on tables: whole numbers as floats, no area, flags as text, boxes as polygons."""
    return {
        "images": [
            {"id": float(index), "file_name": f"{index}.png", "width": 64.0, "height": 48.0}
            for index in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "id": float(number),
                "image_id": float(image),
                "category_id": float(NAMES.index(name)),
                "bbox": [float(value) for value in box],
                "iscrowd": "0",
                "segmentation": [[float(value) for value in box]],
            }
            for number, (image, name, box) in enumerate(OBJECTS)
        ],
        "categories": [{"id": float(index), "name": name} for index, name in enumerate(NAMES)],
    }


def detections(data: dict) -> list[dict]:
    """The objects as a result file, under the ids of an annotation file."""
    images = {str(image["file_name"]).rpartition(".")[0][-1]: image for image in data["images"]}
    ids = {category["name"]: category["id"] for category in data["categories"]}
    return [
        {
            "image_id": int(images[str(image)]["id"]),
            "category_id": int(ids[name]),
            "bbox": list(box),
            "score": 0.5 + number / 1000,
        }
        for number, (image, name, box) in enumerate(OBJECTS)
    ]
