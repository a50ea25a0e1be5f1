"""V-COCO's action names in words: "sit instr" says which role the object has, not how people put it."""

from __future__ import annotations

_WORDS = {
    "cut instr": "cut with",
    "drink instr": "drink from",
    "eat instr": "eat with",
    "hit instr": "hit with",
    "jump instr": "jump on",
    "lay instr": "lie on",
    "look obj": "look at",
    "point instr": "point at",
    "ride instr": "ride",
    "sit instr": "sit on",
    "skateboard instr": "ride",
    "ski instr": "ski on",
    "snowboard instr": "ride",
    "surf instr": "ride",
    "talk_on_phone instr": "talk on",
    "work_on_computer instr": "work on",
}


def vcoco_predicate(action: str) -> str:
    """The predicate of an action such as "hold obj" or "sit instr"; of other text, spaces for underscores."""
    action = action.strip().lower()
    if action in _WORDS:
        return _WORDS[action]
    return action.removesuffix(" obj").removesuffix(" instr").replace("_", " ")
