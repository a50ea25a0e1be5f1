"""Measures how many of an image's interactions its captions propose: `python -m benchmarks.interactions FOLDER`.

FOLDER holds `instances_sample2017.json` (boxes), `vcoco_relations_sample2017.json` (V-COCO's interactions), and
captions of the same images by people and by BLIP. A type (action, object) is proposed if a triplet has a person as
subject, the object's category as object, and a predicate that states the action. Four ways read the same captions:

* authors: SceneGraphParser or, if it is not installed, our parser reduced to what theirs keeps; matched by substrings
  and by the phrases of --dictionary. Their predicates are converted to canonical form, so that "rides" counts as
  "ride", which their own chain does not do.
* read: ours without implied triplets. ours: with them (`tagger.parsing.implied`, `tagger.parsing.implied`).
* words: types for which a caption has a form of the action's verb and a name of the object, regardless of grammar. Only
  implied triplets can exceed it.

All ways are judged twice: by an action's own predicate (`LITERAL`), and by all predicates that state it (`STATING`).
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.authors_parser import MISSING, PeerTriplet, is_installed, parse_as_authors, to_authors_triplets
from benchmarks.harness import Row, parser, run
from benchmarks.vcoco_gold import read_interactions
from tagger.english.lemmas import verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import FUNCTION_WORDS, phrases, tokens_of
from tagger.matching import Paraphrases, match, match_by_substrings, read_paraphrases
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions

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
    "drink instr": phrases("drink with, drink from, sip from"),
    "kick obj": phrases("kick"),
    "read obj": phrases("read"),
}
"""V-COCO's action → canonical predicates that state it, its own first; the same for all ways."""


LITERAL = {action: stating[:1] for action, stating in STATING.items()}
"""V-COCO's action → its own predicate: "man on a surfboard" does not state that he surfs."""

Judge = Mapping[str, Collection[str]]


class Ends(NamedTuple):
    """The categories that the subject and the object of a triplet can be, and its predicate."""

    subjects: Collection[str]
    predicate: str
    objects: Collection[str]


def types_of(triplets: Iterable[Ends], judge: Judge) -> Interactions:
    """Returns the types that triplets state of a person."""
    return {
        (action, category)
        for t in triplets
        if "person" in t.subjects
        for action, stating in judge.items()
        if canonical(t.predicate) in stating
        for category in t.objects
    }


def ours(captions: Sequence[str], categories: Sequence[str], implied: bool = True) -> Iterator[Ends]:
    """Yields our triplets of an image's captions."""
    for triplets in parse_captions(captions, load_parser(), implied):
        for t in triplets:
            yield Ends(match(t.subject_lemma, categories), t.predicate_lemma, match(t.object_lemma, categories))


def authors(captions: Sequence[str], categories: Sequence[str], paraphrases: Paraphrases) -> Iterator[Ends]:
    """Yields the triplets of the authors' parser, matched by their substring rule."""
    if is_installed():
        stated = parse_as_authors(captions, DEFAULT_PARSER)
    else:
        kept = [to_authors_triplets(found) for found in parse_captions(captions, load_parser())]
        stated = [[PeerTriplet(t.subject, t.predicate_lemma, t.object) for t in found] for found in kept]
    for triplets in stated:
        for t in triplets:
            subjects, objects = (match_by_substrings(noun, categories, paraphrases) for noun in (t.subject, t.object))
            yield Ends(subjects, t.predicate, objects)


def in_words(captions: Sequence[str], wanted: Interactions, judge: Judge) -> Interactions:
    """Returns the types whose verb and object occur in one caption, related or not."""
    return {
        (action, category)
        for action, category in wanted
        for words in map(tokens_of, captions)
        if _has_verb(words, judge[action]) and _has_noun(words, category)
    }


def _has_verb(words: Sequence[str], stating: Collection[str]) -> bool:
    verbs = {predicate.split()[0] for predicate in stating} - FUNCTION_WORDS
    return any(canonical(verb_lemma(word)) in verbs for word in words)


def _has_noun(words: Sequence[str], category: str) -> bool:
    spans = ((start, end) for end in range(1, len(words) + 1) for start in range(max(end - 3, 0), end))
    return any(match(" ".join(words[start:end]), [category]) for start, end in spans)


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


def shares(
    captions: Mapping[int, Sequence[str]],
    boxed: Mapping[int, Sequence[str]],
    gold: Mapping[int, Interactions],
    judge: Judge,
    paraphrases: Paraphrases,
) -> dict[str, tuple[float, float]]:
    """Returns each way's recall and precision on the gold types of images with captions. Empty: no image has both."""
    images = sorted(gold.keys() & captions.keys())
    ways: dict[str, Callable[[int], Interactions]] = {
        "authors": lambda image: types_of(authors(captions[image], boxed[image], paraphrases), judge),
        "read": lambda image: types_of(ours(captions[image], boxed[image], implied=False), judge),
        "ours": lambda image: types_of(ours(captions[image], boxed[image]), judge),
        "words": lambda image: in_words(captions[image], gold[image], judge),
    }
    wanted = sum(len(gold[image]) for image in images)
    found = {}
    for way, types in ways.items() if images else ():
        proposed = {image: types(image) for image in images}
        right = sum(len(proposed[image] & gold[image]) for image in images)
        found[way] = right / max(wanted, 1), right / max(sum(map(len, proposed.values())), 1)
    return found


def measure(given: Namespace) -> Iterator[Row]:
    """Yields recall and precision beside the authors' way, for each kind of captions and both judges."""
    if given.folder is None:
        yield Row("nothing measured", note="name a folder of annotations and captions")
        return
    if not is_installed():
        yield Row("authors' way", note=f"{MISSING}; our parser, reduced to what theirs keeps, stands for it")
    paraphrases: Paraphrases = read_paraphrases(given.dictionary) if given.dictionary else {}
    boxed = categories_of(given.folder)
    sets = [(kind, captions, gold_of(given.folder)) for kind, captions in captions_of(given.folder).items()]
    if given.more:
        captions, gold = joined(*given.more)
        boxed = {image: ["person", *sorted({name for _, name in types})] for image, types in gold.items()} | boxed
        sets.append((given.more[0].stem, captions, gold))
    for kind, captions, gold in sets:
        said = f"{len(gold.keys() & captions.keys())} images"
        for name, judge in (("literal", LITERAL), ("stating", STATING)):
            found = shares(captions, boxed, gold, judge, paraphrases)
            for way in ("read", "ours", "words") if found else ():
                recall, precision = zip(found[way], found["authors"], strict=True)
                yield Row(f"{kind}, {name}: types proposed, {way}", "share", *recall, note=said)
                if way != "words":
                    yield Row(f"{kind}, {name}: right of those proposed, {way}", "share", *precision)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("folder", type=Path, nargs="?")
    options.add_argument("--dictionary", type=Path, help="paraphrases in the authors' JSON format")
    options.add_argument("--more", type=Path, nargs=2, metavar=("CAPTIONS", "ANNOTATIONS"),
                         help="more captions, and V-COCO's annotations of at least some of their images")  # fmt: skip
    run(options, measure)
