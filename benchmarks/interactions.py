"""Measures how many of an image's interactions its captions propose: `python -m benchmarks.interactions FOLDER`.

FOLDER holds `instances_sample2017.json` (boxes), `vcoco_relations_sample2017.json` (V-COCO's interactions), and
captions of the same images by people and by BLIP. A type (action, object) is proposed if a triplet has a person as
subject, the object's category as object, and a predicate that states the action. Four ways read the same captions:

* authors: SceneGraphParser or, if it is not installed, our parser reduced to what theirs keeps; matched by substrings
  and by the phrases of --dictionary. Their predicates are converted to canonical form, so that "rides" counts as
  "ride", which their own chain does not do.
* read: ours without implied triplets. ours: with them (`tagger.parsing.implied`).
* words: types for which a caption has a form of the action's verb and a name of the object, regardless of grammar. Only
  implied triplets can exceed it.

All ways are judged twice: by an action's own predicate (`LITERAL`), and by all predicates that state it (`STATING`).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.authors_parser import MISSING, PeerTriplet, is_installed, parse_as_authors
from benchmarks.vcoco_gold import read_interactions
from tagger.english.lemmas import verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import FUNCTION_WORDS, phrases, tokens_of
from tagger.matching import Paraphrases, match, match_by_substrings, read_paraphrases
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions
from tagger.parsing.wordings import authors_predicate

Interactions = set[tuple[str, str]]

STATING = {
    "hold obj": phrases("hold, carry, grab, swing, wave, hold in"),
    "sit instr": phrases("sit on, sit in, sit at, ride, ride in"),
    "ride instr": phrases("ride, ride in, drive"),
    "look obj": phrases("look at, watch, read, look through"),
    "hit instr": phrases("hit with, swing"),
    "hit obj": phrases("hit, swing at, hit at"),
    "eat obj": phrases("eat, bite, bite into, taste"),
    "eat instr": phrases("eat with"),
    "jump instr": phrases("jump on, jump, jump with, jump over, do on"),
    "lay instr": phrases("lie on, lie in, sleep on, sleep in, lie"),
    "talk_on_phone instr": phrases("talk on, speak on, talk into"),
    "carry obj": phrases("carry"),
    "throw obj": phrases("throw, pitch, toss"),
    "catch obj": phrases("catch"),
    "cut instr": phrases("cut with"),
    "cut obj": phrases("cut, slice, cut into"),
    "work_on_computer instr": phrases("work on, use, type on, work at"),
    "ski instr": phrases("ski on, on, ride, ride in"),
    "surf instr": phrases("surf on, on, ride, surf"),
    "skateboard instr": phrases("skateboard on, on, ride, skate on"),
    "snowboard instr": phrases("snowboard on, on, ride"),
    "drink instr": phrases("drink from, drink with, sip from"),
    "kick obj": phrases("kick"),
    "read obj": phrases("read"),
}
"""V-COCO's action → canonical predicates that state it; the same for all ways."""


LITERAL = {
    "hold obj": ("hold",),
    "sit instr": ("sit on",),
    "ride instr": ("ride",),
    "look obj": ("look at",),
    "hit instr": ("hit with",),
    "hit obj": ("hit",),
    "eat obj": ("eat",),
    "eat instr": ("eat with",),
    "jump instr": ("jump on",),
    "lay instr": ("lie on",),
    "talk_on_phone instr": ("talk on",),
    "carry obj": ("carry",),
    "throw obj": ("throw",),
    "catch obj": ("catch",),
    "cut instr": ("cut with",),
    "cut obj": ("cut",),
    "work_on_computer instr": ("work on",),
    "ski instr": ("ski on",),
    "surf instr": ("surf on",),
    "skateboard instr": ("skateboard on",),
    "snowboard instr": ("snowboard on",),
    "drink instr": ("drink with",),
    "kick obj": ("kick",),
    "read obj": ("read",),
}
"""V-COCO's action → its own predicate: "man on a surfboard" does not state that he surfs."""

Judge = Mapping[str, Collection[str]]


def types_stated(judge: Judge, person: bool, predicate: str, objects: Collection[str]) -> Interactions:
    """Returns the types that one triplet states if its object can be any of `objects`."""
    actions = [action for action, stating in judge.items() if canonical(predicate) in stating] if person else []
    return {(action, category) for action in actions for category in objects}


def ours(captions: Sequence[str], categories: Sequence[str], judge: Judge, implied: bool = True) -> Interactions:
    """Returns the types that our triplets of an image's captions propose."""
    triplets = [triplet for found in parse_captions(captions, load_parser(), implied) for triplet in found]
    return set().union(
        *(
            types_stated(
                judge,
                "person" in match(t.subject_lemma, categories),
                t.predicate_lemma,
                match(t.object_lemma, categories),
            )
            for t in triplets
        )
    )


def authors(captions: Sequence[str], categories: Sequence[str], judge: Judge, paraphrases: Paraphrases) -> Interactions:
    """Returns the types that the authors' parser and substring rule propose."""
    if is_installed():
        stated = [t for found in parse_as_authors(captions, DEFAULT_PARSER) for t in found]
    else:
        ours = [triplet for found in parse_captions(captions, load_parser()) for triplet in found]
        stated = [PeerTriplet(t.subject, words, t.object) for t in ours if (words := authors_predicate(t))]
    return set().union(
        *(
            types_stated(
                judge,
                "person" in match_by_substrings(t.subject, categories, paraphrases),
                t.predicate,
                match_by_substrings(t.object, categories, paraphrases),
            )
            for t in stated
        )
    )


def in_words(captions: Sequence[str], wanted: Interactions, judge: Judge) -> Interactions:
    """Returns the types whose verb and object occur in one caption, related or not."""
    return {
        (action, category)
        for action, category in wanted
        for caption in captions
        if _has_verb(tokens_of(caption), judge[action]) and _has_noun(tokens_of(caption), category)
    }


def _has_verb(words: Sequence[str], stating: Collection[str]) -> bool:
    verbs = {predicate.split()[0] for predicate in stating} - FUNCTION_WORDS
    return any(canonical(verb_lemma(word)) in verbs for word in words)


def _has_noun(words: Sequence[str], category: str) -> bool:
    return any(
        match(" ".join(words[start:end]), [category])
        for end in range(1, len(words) + 1)
        for start in range(max(end - 3, 0), end)
    )


def captions_of(folder: Path) -> dict[str, dict[int, list[str]]]:
    """Returns captions by kind and image id: by people, by all captioners together, and by each captioner."""
    kinds: dict[str, dict[int, list[str]]] = {"human": defaultdict(list), "BLIP": defaultdict(list)}
    for row in json.loads((folder / "captions_sample2017.json").read_bytes())["annotations"]:
        kinds["human"][row["image_id"]].append(row["caption"])
    for row in json.loads((folder / "captions_blip_sample2017.json").read_bytes()):
        made = {name: text for name, text in row.items() if name != "image_id" and text}
        kinds["BLIP"][row["image_id"]] += made.values()
        for name, text in made.items():
            kinds.setdefault(name, defaultdict(list))[row["image_id"]].append(text)
    return kinds


def categories_of(folder: Path) -> dict[int, list[str]]:
    """Returns the distinct categories of each image's boxes, in the order of annotations."""
    given = json.loads((folder / "instances_sample2017.json").read_bytes())
    names = {category["id"]: category["name"] for category in given["categories"]}
    found: dict[int, list[str]] = defaultdict(list)
    for row in given["annotations"]:
        if names[row["category_id"]] not in found[row["image_id"]]:
            found[row["image_id"]].append(names[row["category_id"]])
    return found


def gold_of(folder: Path) -> dict[int, Interactions]:
    """Returns the interactions of each image."""
    rows = json.loads((folder / "vcoco_relations_sample2017.json").read_bytes())
    return {row["image_id"]: {(r["action"], r["object"]) for r in row["relations"]} for row in rows}


def joined(captions: Path, annotations: Path) -> tuple[dict[int, list[str]], dict[int, Interactions]]:
    """Returns captions of the images with V-COCO annotations, and V-COCO's types of all its images."""
    gold = {
        image: {(action, category) for (_, category), actions in deeds.items() for action in actions}
        for image, deeds in read_interactions(annotations).items()
    }
    texts: dict[int, list[str]] = defaultdict(list)
    for row in json.loads(captions.read_bytes()):
        if row["image_id"] in gold:
            texts[row["image_id"]].append(row["caption"])
    return texts, gold


def measure(
    captions: Mapping[int, Sequence[str]],
    boxed: Mapping[int, Sequence[str]],
    gold: Mapping[int, Interactions],
    judge: Judge,
    paraphrases: Paraphrases,
) -> dict[str, Any]:
    """Returns each way's recall and precision on the gold types of images with captions."""
    images = sorted(gold.keys() & captions.keys())
    ways: dict[str, Callable[[int], Interactions]] = {
        "authors": lambda image: authors(captions[image], boxed[image], judge, paraphrases),
        "read": lambda image: ours(captions[image], boxed[image], judge, implied=False),
        "ours": lambda image: ours(captions[image], boxed[image], judge),
        "words": lambda image: in_words(captions[image], gold[image], judge),
    }
    wanted = sum(len(gold[image]) for image in images)
    proposed, reached = Counter[str](), Counter[str]()
    for way, types in ways.items():
        for image in images:
            found = types(image)
            proposed[way] += len(found)
            reached[way] += len(found & gold[image])
    return {
        "images": len(images),
        "types": wanted,
        "reached": {way: round(reached[way] / max(wanted, 1), 3) for way in ways},
        "ratio": round(reached["ours"] / max(reached["authors"], 1), 2),
        "right of proposed": {
            way: round(reached[way] / max(proposed[way], 1), 2) for way in ("authors", "read", "ours")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--dictionary", type=Path, help="paraphrases in the authors' JSON format")
    parser.add_argument("--more", type=Path, nargs=2, metavar=("CAPTIONS", "ANNOTATIONS"),
                        help="more captions, and V-COCO's annotations of at least some of their images")  # fmt: skip
    given = parser.parse_args()
    if given.folder is None:
        print("benchmarks.interactions: nothing measured; name a folder of annotations and captions")
        return
    paraphrases: Paraphrases = read_paraphrases(given.dictionary) if given.dictionary else {}
    boxed, sets = (
        categories_of(given.folder),
        [(*of, gold_of(given.folder)) for of in captions_of(given.folder).items()],
    )
    if given.more:
        captions, gold = joined(*given.more)
        boxed = {image: ["person", *sorted({name for _, name in types})] for image, types in gold.items()} | boxed
        sets.append((given.more[0].stem, captions, gold))
    figures = {}
    print(f"{'':16}{'':9}{'':7}{'':6}   share of types that are proposed    {'precision':>36}")
    print(f"{'captions':18}{'judge':9}{'images':>7}{'types':>6}{'authors':>9}{'read':>7}{'ours':>7}{'words':>7}"
          f"{'ours / authors':>16}{'authors':>9}{'read':>6}{'ours':>6}")  # fmt: skip
    for kind, captions, gold in sets:
        for name, judge in (("literal", LITERAL), ("stating", STATING)):
            found = figures[f"{kind}, {name}"] = measure(captions, boxed, gold, judge, paraphrases)
            if not found["images"]:
                print(f"{kind}: V-COCO's file annotates none of its images; name another with --more")
                break
            shares, right = found["reached"], found["right of proposed"]
            print(f"{kind:18}{name:9}{found['images']:7}{found['types']:6}{shares['authors']:9.3f}{shares['read']:7.3f}"
                  f"{shares['ours']:7.3f}{shares['words']:7.3f}{found['ratio']:16.2f}"
                  f"{right['authors']:9.2f}{right['read']:6.2f}{right['ours']:6.2f}")  # fmt: skip
    if not is_installed():
        print(f"{MISSING}; measured our parser, reduced to what theirs keeps, instead")
    print(
        json.dumps({"peer installed": is_installed(), "machine": platform.processor() or platform.machine(), **figures})
    )


if __name__ == "__main__":
    main()
