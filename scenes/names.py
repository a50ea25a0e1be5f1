"""Names in the synthetic world: COCO's object categories, those that it draws, and its predicates."""

COCO_CATEGORIES: dict[str, int] = {
    "person": 1, "bicycle": 2, "car": 3, "motorcycle": 4, "airplane": 5, "bus": 6, "train": 7, "truck": 8, "boat": 9,
    "traffic light": 10, "fire hydrant": 11, "stop sign": 13, "parking meter": 14, "bench": 15, "bird": 16, "cat": 17,
    "dog": 18, "horse": 19, "sheep": 20, "cow": 21, "elephant": 22, "bear": 23, "zebra": 24, "giraffe": 25,
    "backpack": 27, "umbrella": 28, "handbag": 31, "tie": 32, "suitcase": 33, "frisbee": 34, "skis": 35,
    "snowboard": 36, "sports ball": 37, "kite": 38, "baseball bat": 39, "baseball glove": 40, "skateboard": 41,
    "surfboard": 42, "tennis racket": 43, "bottle": 44, "wine glass": 46, "cup": 47, "fork": 48, "knife": 49,
    "spoon": 50, "bowl": 51, "banana": 52, "apple": 53, "sandwich": 54, "orange": 55, "broccoli": 56, "carrot": 57,
    "hot dog": 58, "pizza": 59, "donut": 60, "cake": 61, "chair": 62, "couch": 63, "potted plant": 64, "bed": 65,
    "dining table": 67, "toilet": 70, "tv": 72, "laptop": 73, "mouse": 74, "remote": 75, "keyboard": 76,
    "cell phone": 77, "microwave": 78, "oven": 79, "toaster": 80, "sink": 81, "refrigerator": 82, "book": 84,
    "clock": 85, "vase": 86, "scissors": 87, "teddy bear": 88, "hair drier": 89, "toothbrush": 90,
}  # fmt: skip

ANIMALS = ("horse", "dog", "cat", "elephant", "cow", "sheep", "bird")
VEHICLES = ("bicycle", "motorcycle", "car", "bus", "skateboard")
FURNITURE = ("chair", "couch", "bench", "bed", "dining table")
THINGS = (
    "umbrella", "backpack", "handbag", "suitcase", "sports ball", "book", "cup", "tie", "laptop", "tv", "apple",
)  # fmt: skip
PEOPLE = ("man", "woman", "boy", "girl")
"""Nouns of category person."""

WORLD_CATEGORIES: tuple[str, ...] = ("person", *ANIMALS, *VEHICLES, *FURNITURE, *THINGS)


PREDICATES: tuple[str, ...] = (
    "riding", "holding", "carrying", "wearing", "sitting on", "lying on", "next to", "behind", "under", "on",
    "looking at", "walking", "kicking", "eating",
)  # fmt: skip

CANONICAL: dict[str, str] = {
    "riding": "ride",
    "holding": "hold",
    "carrying": "carry",
    "wearing": "wear",
    "sitting on": "sit on",
    "lying on": "lie on",
    "next to": "next to",
    "behind": "behind",
    "under": "under",
    "on": "on",
    "looking at": "look at",
    "walking": "walk",
    "kicking": "kick",
    "eating": "eat",
}
"""Planted predicate -> canonical form: verbs as lemmas, prepositions kept."""

SYMMETRIC: frozenset[str] = frozenset({"next to"})
"""Predicates that hold in both directions."""
