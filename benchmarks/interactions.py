"""How many of an image's interactions its captions propose: `python -m benchmarks.interactions FOLDER`.

FOLDER holds `instances_sample2017.json` (boxes), `vcoco_relations_sample2017.json` (V-COCO's interactions) and captions
by people and by BLIP of the same images. A type (action, object) is proposed when some triplet has a person as subject,
the object's category as object, and a predicate that states the action. The authors' way (SceneGraphParser where it is
installed, else our parser with what theirs keeps; substrings, with DICTIONARY of their own phrases) and ours, with what
activities imply (`tagger.implied`), read the same captions. Two judges hold for both: an action's own predicate
(`LITERAL`), and predicates that state it (`STATING`).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.authors_parser import PeerTriplet, is_installed, parse_as_authors
from tagger.matching import match
from tagger.official_matching import Paraphrases, match_officially, read_paraphrases
from tagger.official_triplets import as_authors_keep
from tagger.parsing import DEFAULT_PARSER, load_parser, parse_captions
from tagger.predicates import canonical, from_vcoco
from tagger.words import phrases

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
"""Canonical predicates that state V-COCO's actions; the same for both ways of reading."""


LITERAL = {action: (from_vcoco(action),) for action in STATING}
"""The action's own predicate alone: "man on a surfboard" does not say that he surfs."""

Judge = Mapping[str, Collection[str]]


def types_stated(judge: Judge, person: bool, predicate: str, objects: Collection[str]) -> Interactions:
    """Types that one triplet states, of an object that may be any of `objects`."""
    actions = [action for action, stating in judge.items() if canonical(predicate) in stating] if person else []
    return {(action, category) for action in actions for category in objects}


def ours(captions: Sequence[str], categories: Sequence[str], judge: Judge) -> Interactions:
    """Types that our triplets of an image's captions propose."""
    triplets = [triplet for found in parse_captions(captions, load_parser(), implied=True) for triplet in found]
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
    """Types that the authors' parser and substring rule propose."""
    if is_installed():
        stated = [t for found in parse_as_authors(captions, DEFAULT_PARSER) for t in found]
    else:
        kept = [as_authors_keep(found) for found in parse_captions(captions, load_parser())]
        stated = [PeerTriplet(t.subject, t.predicate_lemma, t.object) for found in kept for t in found]
    return set().union(
        *(
            types_stated(
                judge,
                "person" in match_officially(t.subject, categories, paraphrases),
                t.predicate,
                match_officially(t.object, categories, paraphrases),
            )
            for t in stated
        )
    )


def captions_of(folder: Path) -> dict[str, dict[int, list[str]]]:
    """Captions by kind and image."""
    kinds: dict[str, dict[int, list[str]]] = {"human": defaultdict(list), "BLIP": defaultdict(list)}
    for row in json.loads((folder / "captions_sample2017.json").read_bytes())["annotations"]:
        kinds["human"][row["image_id"]].append(row["caption"])
    for row in json.loads((folder / "captions_blip_sample2017.json").read_bytes()):
        kinds["BLIP"][row["image_id"]] += [text for name, text in row.items() if name != "image_id" and text]
    return kinds


def categories_of(folder: Path) -> dict[int, list[str]]:
    """Categories of each image's boxes, in the order of annotations."""
    given = json.loads((folder / "instances_sample2017.json").read_bytes())
    names = {category["id"]: category["name"] for category in given["categories"]}
    found: dict[int, list[str]] = defaultdict(list)
    for row in given["annotations"]:
        if names[row["category_id"]] not in found[row["image_id"]]:
            found[row["image_id"]].append(names[row["category_id"]])
    return found


def gold_of(folder: Path) -> dict[int, Interactions]:
    """The interactions of each image."""
    rows = json.loads((folder / "vcoco_relations_sample2017.json").read_bytes())
    return {row["image_id"]: {(r["action"], r["object"]) for r in row["relations"]} for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--dictionary", type=Path, help="paraphrases in the authors' JSON format")
    given = parser.parse_args()
    if given.folder is None:
        print("benchmarks.interactions: no folder given, nothing measured")
        return
    paraphrases: Paraphrases = read_paraphrases(given.dictionary) if given.dictionary else {}
    gold, boxed, figures = gold_of(given.folder), categories_of(given.folder), {}
    for kind, captions in captions_of(given.folder).items():
        images = sorted(gold.keys() & captions.keys())
        wanted = sum(len(gold[image]) for image in images)
        for name, judge in (("literal", LITERAL), ("stating", STATING)):
            reached, said = Counter[str](), Counter[str]()
            for image in images:
                ways = {
                    "authors": authors(captions[image], boxed[image], judge, paraphrases),
                    "ours": ours(captions[image], boxed[image], judge),
                }
                for way, types in ways.items():
                    said[way] += len(types)
                    reached[way] += len(types & gold[image])
            shares = {way: round(reached[way] / wanted, 3) for way in ("authors", "ours")}
            ratio = round(reached["ours"] / max(reached["authors"], 1), 2)
            figures[f"{kind}, {name}"] = {
                "images": len(images), "types": wanted, "proposed": said, "reached": shares, "ratio": ratio,
            }  # fmt: skip
            print(f"{kind:6}{name:8} {len(images)} images, {wanted} types: authors {shares['authors']:.3f}, "
                  f"ours {shares['ours']:.3f}, {ratio} times; proposed in all {dict(said)}")  # fmt: skip
    print(
        json.dumps({"peer installed": is_installed(), "machine": platform.processor() or platform.machine(), **figures})
    )


if __name__ == "__main__":
    main()
