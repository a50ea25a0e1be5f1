"""V-COCO's public files, for one image."""

import json
from pathlib import Path

from relation_rows import A


def files(folder: Path, **changes) -> tuple[Path, Path, Path]:
    """The public files of one image: person 1 holds box 3, person 2 is not annotated. `changes` replace contents."""
    box = {"image_id": 7, "category_id": 1, "area": 1600.0, "iscrowd": 0}
    contents = {
        "actions": [
            {
                "action_name": "hold", "role_name": ["agent", "obj"], "image_id": [[7]], "ann_id": [[1]],
                "label": [[1]], "role_object_id": [1, 3],
            },
            {
                "action_name": "walk", "role_name": ["agent"], "image_id": [7], "ann_id": [1], "label": [0],
                "role_object_id": [1],
            },
        ],
        "instances": {
            "images": [{"id": 7, "width": 200, "height": 100}],
            "annotations": [
                box | {"id": 2, "bbox": [100.0, 10.0, 40.0, 80.0]},
                box | {"id": 1, "bbox": [0.0, 10.0, 40.0, 80.0]},
                box | {"id": 3, "category_id": 5, "bbox": [180.0, 10.0, 40.0, 80.0]},
                box | {"id": 4, "bbox": [0.0, 0.0, 1.0, 80.0]},
                box | {"id": 5, "bbox": [0.0, 10.0, 40.0, 80.0], "ignore": 1},
            ],
            "categories": [{"id": 5, "name": "bat"}, {"id": 1, "name": "person"}],
        },
        "detections": [
            {
                "image_id": 7, "person_box": A, "hold_agent": 0.9, "hold_obj": [180.0, 10.0, 199.0, 89.0, 0.8],
                "walk_agent": None,
            }
        ],
    } | changes  # fmt: skip
    paths = tuple(folder / f"{name}.json" for name in ("actions", "instances", "detections"))
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths
