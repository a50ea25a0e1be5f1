"""Measures the parser: `python -m benchmarks.parsing PART FILES`.

graphs CSV      FACTUAL's captions (columns `caption` and `scene_graph`, e.g. "( man , ride , horse ) , ( horse , is ,
                brown )"): precision and recall of triplets whose three lemmas match the graph's, and of pairs of
                subject and object. Attributes are left out. FACTUAL's own scorer, if it is installed, also gives Set
                Match and SPICE, which count attributes; our graphs lack nouns without relations, which costs both.
interactions FOLDER
                how many of V-COCO's (action, object) types captions propose: a triplet has a person as subject, the
                object's category as object, and a predicate that states the action. FOLDER holds the boxes,
                interactions and captions of a COCO sample. Judged by an action's own predicate and all that state it.
implied JSON    how often implied actions hold in V-COCO's annotations (`instances_vcoco_train.json`), apart from the
                images of --without, on which `interactions` measures, so that rules are not tuned on them
documents       the captions of --scenes scenes of the synthetic world, five of each joined to one text, with pronouns
                and definite nouns for what earlier sentences name: precision and recall of its triplets beside those of
                captions one by one. A triplet is right if its predicate's sentence states it with the caption's nouns.
speed JSON...   captions per CPU-second on slices that both parsers take in turns, without the cache, then from it. Set
                OMP_NUM_THREADS=1: the waiting of a second thread would count.

`graphs` and `interactions` measure the rules alone and with the learned layer. The peer is the authors' parser,
SceneGraphParser, with the same spaCy model, caption by caption as in their code. Without it, `interactions` compares
ours reduced to what theirs keeps. Their predicates become canonical ("rides" counts as "ride"), unlike in their chain.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from argparse import Namespace
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, chain, compress, product
from operator import not_
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.grammar_reader import read
from benchmarks.harness import Row, cpu_seconds, parser, run
from pipeline.stages.parse_cache import ParseCache
from scenes.dataset import CAPTIONS, Written, captions as scene_captions
from scenes.grammar import FORMS, NOUNS
from scenes.names import CANONICAL, WORLD_CATEGORIES
from scenes.world import make_scene
from tagger.english.lemmas import phrase_lemma, verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import DETERMINERS, FUNCTION_WORDS, phrases, tokens_of
from tagger.matching import Paraphrases, match, match_by_substrings, read_paraphrases
from tagger.parsing.implied import CONSEQUENCES, following
from tagger.parsing.layer import load_layer
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions
from tagger.parsing.wordings import authors_predicate, full_predicate
from tagger.triplet import Triplet

MISSING = "the authors' parser is not installed (pip install SceneGraphParser tabulate)"
LAYERS = ("rules", "learned")
TURNS = 10
SEED = 0
Stated = tuple[str, str, str]
Interactions = set[tuple[str, str]]
Judge = Mapping[str, Collection[str]]
Deeds = dict[tuple[tuple[float, ...], str], set[str]]
"""(person's box, object's category) → V-COCO's actions, in one image."""
STATING = {
    "hold obj": phrases("hold, carry, grab, swing, wave, hold in"),
    "sit instr": phrases("sit on, sit in, sit at, ride, ride in"), "ride instr": phrases("ride, ride in, drive"),
    "look obj": phrases("look at, watch, read, look through"), "hit instr": phrases("hit with, swing"),
    "hit obj": phrases("hit, swing at, hit at"), "eat obj": phrases("eat, bite, bite into, taste"),
    "eat instr": phrases("eat with"), "jump instr": phrases("jump on, jump, jump with, jump over, do on"),
    "lay instr": phrases("lie on, lie in, sleep on, sleep in, lie"),
    "talk_on_phone instr": phrases("talk on, speak on, talk into"), "carry obj": phrases("carry"),
    "throw obj": phrases("throw, pitch, toss"), "catch obj": phrases("catch"), "cut instr": phrases("cut with"),
    "cut obj": phrases("cut, slice, cut into"), "work_on_computer instr": phrases("work on, use, type on, work at"),
    "ski instr": phrases("ski on, on, ride, ride in"), "surf instr": phrases("surf on, on, ride, surf"),
    "skateboard instr": phrases("skateboard on, on, ride, skate on"),
    "snowboard instr": phrases("snowboard on, on, ride"), "drink instr": phrases("drink with, drink from, sip from"),
    "kick obj": phrases("kick"), "read obj": phrases("read"),
}  # fmt: skip
"""V-COCO's action → canonical predicates that state it, its own first; the same for all ways."""
LITERAL = {action: stating[:1] for action, stating in STATING.items()}
"""V-COCO's action → its own predicate: "man on a surfboard" does not state that he surfs."""
ACTION = {predicate: action for action, (predicate,) in LITERAL.items()}
"""Canonical predicate → V-COCO's action."""
_NOUNS = "|".join(sorted({"rider", *WORLD_CATEGORIES, *chain(*NOUNS.values())}, key=len, reverse=True))
_PHRASE = re.compile(rf"\ban? ((?:\w+ )?({_NOUNS}))\b")
_FINITE = {"is", *(third.split()[0] for _, third, _ in FORMS.values())}
_HE, _SHE, _IT = ("he", "him"), ("she", "her"), ("it", "it")
_PRONOUNS = {
    **dict.fromkeys(("man", "boy"), (_HE,)),
    **dict.fromkeys(("woman", "lady", "girl"), (_SHE,)),
    **dict.fromkeys(("person", "child", "kid", "rider"), (_HE, _SHE)),
}
"""Noun → the pronouns that may mean it, as subject and as object; "it" for any other."""
PRONOUNS = frozenset((*_HE, *_SHE, *_IT))


class PeerTriplet(NamedTuple):
    """A relation of the authors' parser: spans and predicate as in the caption's text."""

    subject: str
    predicate: str
    object: str


class Ends(NamedTuple):
    """The categories that the subject and the object of a triplet can be, and its predicate."""

    subjects: Collection[str]
    predicate: str
    objects: Collection[str]


def has_peer() -> bool:
    return all(find_spec(name) is not None for name in ("sng_parser", "tabulate"))


@cache
def _peer() -> Any:
    return import_module("sng_parser").Parser("spacy", model=DEFAULT_PARSER)


def parse_as_authors(captions: Sequence[str]) -> Iterator[list[PeerTriplet]]:
    """Yields the relations of each caption by the authors' parser."""
    for caption in captions:
        graph = _peer().parse(caption)
        spans = [entity["span"].lower() for entity in graph["entities"]]
        yield [PeerTriplet(spans[r["subject"]], r["relation"], spans[r["object"]]) for r in graph["relations"]]


def graph(text: str) -> set[Stated]:
    """Parses the relations of a graph as lemmas of subject, predicate and object."""
    parts = [part.split(" , ") for part in re.findall(r"\( (.*?) \)", text)]
    stated = [part for part in parts if len(part) == 3 and part[1].strip() != "is"]
    return {(phrase_lemma(subject), _predicate_lemma(name), phrase_lemma(object_)) for subject, name, object_ in stated}


def _predicate_lemma(text: str) -> str:
    """Returns a predicate of a graph in the words of ours."""
    words = [word for word in tokens_of(text) if word not in DETERMINERS]
    return " ".join(word if word in FUNCTION_WORDS else verb_lemma(word) for word in words)


def rows_of(path: Path) -> tuple[list[str], list[str]]:
    """Returns the captions of a file, and the graph of each as written."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["caption"] for row in rows], [row["scene_graph"] for row in rows]


def parsed(captions: Sequence[str], layer: str = "learned", implied: bool = False) -> list[list[Triplet]]:
    """Returns the triplets that our parser finds in each caption."""
    return parse_captions(captions, load_parser(), implied, load_layer() if layer == "learned" else None)


def lemmas_of(found: Sequence[Sequence[Triplet]]) -> list[set[Stated]]:
    return [{(t.subject_lemma, full_predicate(t), t.object_lemma) for t in triplets} for triplets in found]


def score(found: Sequence[Set[Any]], wanted: Sequence[Set[Any]]) -> tuple[float, float]:
    right = sum(len(here & there) for here, there in zip(found, wanted, strict=True))
    return right / max(sum(map(len, found)), 1), right / max(sum(map(len, wanted)), 1)


def pairs_of(stated: Sequence[set[Stated]]) -> list[set[tuple[str, str]]]:
    return [{(subject, object_) for subject, _, object_ in triplets} for triplets in stated]


def written(triplets: Sequence[Triplet]) -> str:
    """Returns triplets as a graph in FACTUAL's notation, with attributes and with nouns as written."""
    facts = dict[str, None]()
    for t in triplets:
        ends = []
        for text, lemma, attributes, count in (
            (t.subject, t.subject_lemma, t.subject_attributes, t.subject_count),
            (t.object, t.object_lemma, t.object_attributes, t.object_count),
        ):
            noun = " ".join(text.lower().split()[-len(lemma.split()) :])
            ends.append(noun)
            numbers = (str(count),) if count > 1 else ()
            facts |= dict.fromkeys(f"( {noun} , is , {attribute} )" for attribute in (*attributes, *numbers))
        facts[f"( {ends[0]} , {full_predicate(t)} , {ends[1]} )"] = None
    return " , ".join(facts)


def published_scores(layer: str, found: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    """Yields Set Match and SPICE by FACTUAL's scorer."""
    if find_spec("factual_scene_graph") is None:
        lacking = "FACTUAL's scorer is not installed (pip install --no-deps FactualSceneGraph tabulate nltk)"
        yield Row("Set Match, SPICE", note=lacking)
        return
    for name, way, settings in (("Set Match", "set_match", ()), ("SPICE", "spice", (False, True))):
        scorer = getattr(import_module(f"factual_scene_graph.evaluation.{way}_evaluation"), f"eval_{way}")
        scores = [float(scorer(*graphs, *settings)) for graphs in zip(found, wanted, strict=True)]
        yield Row(f"{layer}: {name}", "%", 100 * fmean(scores))


def measure_graphs(given: Namespace) -> Iterator[Row]:
    """Yields precision and recall of triplets and of pairs, and the published scores, by each layer."""
    captions, graphs = rows_of(given.csv)
    wanted = [graph(text) for text in graphs]
    for layer in LAYERS:
        triplets = parsed(captions, layer)
        found = lemmas_of(triplets)
        for what, here, there in (("triplets", found, wanted), ("pairs", pairs_of(found), pairs_of(wanted))):
            precision, recall = score(here, there)
            yield Row(f"{layer}: precision of {what}", "share", precision, note=f"of {sum(map(len, here)):,} found")
            yield Row(f"{layer}: recall of {what}", "share", recall, note=f"of {sum(map(len, there)):,} wanted")
        yield from published_scores(layer, [written(each) for each in triplets], graphs)


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


def ours(captions: Sequence[str], categories: Sequence[str], implied: bool, layer: str) -> Iterator[Ends]:
    """Yields our triplets of an image's captions."""
    for triplets in parsed(captions, layer, implied):
        for t in triplets:
            yield Ends(match(t.subject_lemma, categories), t.predicate_lemma, match(t.object_lemma, categories))


def authors(captions: Sequence[str], categories: Sequence[str], paraphrases: Paraphrases) -> Iterator[Ends]:
    """Yields the triplets of the authors' parser, matched by their substring rule."""
    stated: Iterable[Iterable[PeerTriplet]]
    if has_peer():
        stated = parse_as_authors(captions)
    else:
        worded = (((t, authors_predicate(t)) for t in found) for found in parse_captions(captions, load_parser()))
        stated = ([PeerTriplet(t.subject, name, t.object) for t, name in found if name] for found in worded)
    for triplets in stated:
        for t in triplets:
            subjects, objects = (match_by_substrings(noun, categories, paraphrases) for noun in (t.subject, t.object))
            yield Ends(subjects, t.predicate, objects)


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
    found: dict[int, dict[str, None]] = defaultdict(dict)
    for row in given["annotations"]:
        found[row["image_id"]][names[row["category_id"]]] = None
    return {image: list(of_image) for image, of_image in found.items()}


def gold_of(folder: Path) -> dict[int, Interactions]:
    rows = json.loads((folder / "vcoco_relations_sample2017.json").read_bytes())
    return {row["image_id"]: {(r["action"], r["object"]) for r in row["relations"]} for row in rows}


def shares(
    captions: Mapping[int, Sequence[str]],
    boxed: Mapping[int, Sequence[str]],
    gold: Mapping[int, Interactions],
    judge: Judge,
    paraphrases: Paraphrases,
    layer: str = "learned",
) -> dict[str, tuple[float, float]]:
    """Returns each way's recall and precision on the gold types of captioned images; `read` has no implied triplets."""
    images = sorted(gold.keys() & captions.keys())
    ways: dict[str, Callable[[int], Iterator[Ends]]] = {
        "authors": lambda image: authors(captions[image], boxed[image], paraphrases),
        "read": lambda image: ours(captions[image], boxed[image], False, layer),
        "ours": lambda image: ours(captions[image], boxed[image], True, layer),
    }
    wanted, found = sum(len(gold[image]) for image in images), {}
    for way, triplets in ways.items():
        proposed = {image: types_of(triplets(image), judge) for image in images}
        right = sum(len(proposed[image] & gold[image]) for image in images)
        found[way] = right / max(wanted, 1), right / max(sum(map(len, proposed.values())), 1)
    return found


def measure_interactions(given: Namespace) -> Iterator[Row]:
    """Yields recall and precision beside the authors' way, for each kind of captions and both judges."""
    if not has_peer():
        yield Row("authors' way", note=f"{MISSING}; our parser, reduced to what theirs keeps, stands for it")
    paraphrases: Paraphrases = read_paraphrases(given.dictionary) if given.dictionary else {}
    boxed, gold = categories_of(given.folder), gold_of(given.folder)
    judges = {"literal": LITERAL, "stating": STATING}
    for kind, captions in captions_of(given.folder).items():
        said = f"{len(gold.keys() & captions.keys())} images"
        for layer, (name, judge) in product(LAYERS, judges.items()):
            found = shares(captions, boxed, gold, judge, paraphrases, layer)
            for way in ("read", "ours"):
                recall, precision = zip(found[way], found["authors"], strict=True)
                yield Row(f"{kind}, {name}: types proposed, {way}, {layer}", "share", *recall, note=said)
                yield Row(f"{kind}, {name}: right of those proposed, {way}, {layer}", "share", *precision)


def read_interactions(path: Path) -> dict[int, Deeds]:
    """Returns who does what with which object in each image of `instances_vcoco_train.json`, by COCO's image id."""
    given = json.loads(path.read_bytes())
    found: dict[int, Deeds] = {}
    for row in given["annotations"]:
        deeds: Deeds = defaultdict(set)
        for box, action, category in zip(row["boxes_h"], row["actions"], row["objects"], strict=True):
            deeds[tuple(box), given["objects"][category]].add(given["classes"][action])
        found[int(Path(row["file_name"]).stem.rpartition("_")[2])] = deeds
    return found


def shares_of(images: Mapping[int, Deeds]) -> dict[Stated, tuple[float, int]]:
    """Returns (stated, object, implied) → (share of pairs with the implied action, pair count), most pairs first."""
    stated, both = Counter[Stated](), Counter[Stated]()
    for deeds in images.values():
        for (_, category), actions in deeds.items():
            for predicate in (predicate for predicate, action in ACTION.items() if action in actions):
                for other, noun in following(predicate, category):
                    if noun == category and other in ACTION:
                        stated[predicate, category, other] += 1
                        both[predicate, category, other] += ACTION[other] in actions
    return {of: (both[of] / count, count) for of, count in stated.most_common()}


def measure_implied(given: Namespace) -> Iterator[Row]:
    """Yields the share of each row of `tagger.parsing.implied` between two of V-COCO's actions, and of all."""
    left_out = {row["image_id"] for row in json.loads(given.without.read_bytes())} if given.without else set()
    images = {image: deeds for image, deeds in read_interactions(given.annotations).items() if image not in left_out}
    found = shares_of(images)
    for (predicate, category, other), (share, pairs) in found.items():
        yield Row(f"{predicate} {category}: {other}", "share", share, note=f"{pairs} pairs")
    pairs = sum(count for _, count in found.values())
    total = sum(share * count for share, count in found.values()) / max(pairs, 1)
    yield Row(f"all {len(CONSEQUENCES)} rows", "share", total, note=f"{pairs} pairs of {len(images)} images")


def facts(captions: Sequence[str], sentences: Sequence[str], found: Iterable[Triplet]) -> set[Stated]:
    """Returns the categories and predicates of triplets. A noun that the sentence's caption lacks has no category."""
    ends = list(accumulate(len(sentence) + 1 for sentence in sentences))
    stated = set()
    for t in found:
        caption = captions[bisect(ends, t.predicate_start)]
        nouns = (
            match(lemma, WORLD_CATEGORIES) if re.search(rf"\b{re.escape(lemma)}\b", caption) else [f"no {lemma}"]
            for lemma in (t.subject_lemma, t.object_lemma)
        )
        subject, object_ = map("/".join, nouns)
        stated.add((subject, t.predicate_lemma, object_))
    return stated


def document(captions: Sequence[str]) -> Iterator[str]:
    """Yields captions as the sentences of one text, with pronouns and definite nouns for nouns that earlier ones have.

    A pronoun stands for what a reader takes it for: the subject of the sentence before, if it is the subject too, or
    the only noun there, and before it in its own sentence, that it can mean.
    """
    known, before = set[str](), list[str]()
    for caption in captions:
        here: list[str] = []

        def reference(phrase: re.Match[str], before: Sequence[str] = before, here: list[str] = here) -> str:
            noun, text, earlier = phrase[2], phrase.string, [*here]
            here.append(noun)
            if noun not in known or noun in earlier:
                return phrase[0]
            pronouns = _PRONOUNS.get(noun, (_IT,))
            rivals = {other for other in (*before, *earlier) if {*_PRONOUNS.get(other, (_IT,))} & {*pronouns}}
            is_plain = rivals == {noun} or (not earlier and before[0] == noun)
            if noun not in before or len(pronouns) > 1 or not is_plain:
                return f"the {phrase[1]}"
            [(subject, object_)] = pronouns
            is_subject = not phrase.start() or text[: phrase.start()].endswith(("while ", "and "))
            if not is_subject:
                return object_
            return subject if text[phrase.end() :].split()[0] in _FINITE else f"{subject} is"

        text = _PHRASE.sub(reference, caption.removeprefix("there is "))
        yield f"{text[0].upper()}{text[1:]}."
        known.update(here)
        before = here


def read_documents(scenes: int) -> Iterator[tuple[list[str], list[set[Stated]], list[set[Stated]], set[Stated]]]:
    """Yields each document's sentences, what each states, what each states on its own, and what the document does."""
    images = [Written.of(make_scene(SEED, number), number, "") for number in range(scenes)]
    listed = [row["caption"] for row in scene_captions(images, SEED)["annotations"]]
    groups = [listed[start : start + CAPTIONS] for start in range(0, len(listed), CAPTIONS)]
    texts = [list(document(captions)) for captions in groups]
    joined = parsed([" ".join(sentences) for sentences in texts])
    for captions, sentences, found in zip(groups, texts, joined, strict=True):
        wanted = [{(subject, CANONICAL[name], object_) for subject, name, object_ in read(each)} for each in captions]
        alone = [facts([each], [each], stated) for each, stated in zip(captions, parsed(captions), strict=True)]
        yield sentences, wanted, alone, facts(captions, sentences, found)


def measure_documents(given: Namespace) -> Iterator[Row]:
    """Yields precision and recall of documents, beside those of their sentences parsed one by one."""
    texts, wanted, alone, found = zip(*read_documents(given.scenes), strict=True)
    every = [set().union(*stated) for stated in wanted]
    ways = found, [set().union(*stated) for stated in alone]
    has_pronoun = [[not PRONOUNS.isdisjoint(tokens_of(sentence)) for sentence in sentences] for sentences in texts]
    note = f"{len(texts)} documents, {sum(map(sum, has_pronoun)):,} sentences with pronouns"
    for what, *both in zip(("precision", "recall"), *(score(way, every) for way in ways), strict=True):
        yield Row(f"{what} of documents, beside sentences", "share", *both, note=note)
    by_pronoun = [
        set().union(*compress(stated, marks)) - set().union(*compress(stated, map(not_, marks)))
        for stated, marks in zip(wanted, has_pronoun, strict=True)
    ]
    recalls = (score(way, by_pronoun)[1] for way in ways)
    yield Row("recall of what only they state", "share", *recalls, note=f"{sum(map(len, by_pronoun))} relations")


def measure_speed(given: Namespace) -> Iterator[Row]:
    """Yields the rates of both parsers, and that of the cache. The files are lists of {"caption": text}."""
    rows = [row for path in given.captions for row in json.loads(path.read_bytes())[: given.limit]]
    distinct = list(dict.fromkeys(row["caption"] for row in rows))
    ways: dict[str, Callable[[Sequence[str]], object]] = {"ours": parsed}
    if has_peer():
        ways["theirs"] = lambda texts: list(parse_as_authors(texts))
    for way in ways.values():
        way(distinct[:50])
    size, taken = -(-len(distinct) // TURNS), dict.fromkeys(ways, 0.0)
    for start in range(0, len(distinct), size):
        for name, way in ways.items():
            taken[name] += cpu_seconds(lambda way=way, start=start: way(distinct[start : start + size]))
    rates, unit = {name: len(distinct) / seconds for name, seconds in taken.items()}, "captions/CPU-s"
    name = "distinct captions, beside the authors' parser"
    yield Row(name, unit, rates["ours"], rates.get("theirs"), "" if has_peer() else MISSING)
    with tempfile.TemporaryDirectory() as folder:
        kept = ParseCache(Path(folder) / "parses.sqlite", "benchmark")
        kept.keep(dict(zip(distinct, parsed(distinct), strict=True)))
        cached = len(distinct) / cpu_seconds(lambda: kept.find(distinct))
    yield Row("distinct captions in a second run, beside the first", unit, cached, rates["ours"])


PARTS = {
    "graphs": measure_graphs, "interactions": measure_interactions, "implied": measure_implied,
    "documents": measure_documents, "speed": measure_speed,
}  # fmt: skip


if __name__ == "__main__":
    options = parser(__doc__)
    parts = options.add_subparsers(required=True, dest="part")
    parts.add_parser("graphs").add_argument("csv", type=Path)
    chosen = parts.add_parser("interactions")
    chosen.add_argument("folder", type=Path)
    chosen.add_argument("--dictionary", type=Path, help="paraphrases in the authors' JSON format")
    chosen = parts.add_parser("implied")
    chosen.add_argument("annotations", type=Path)
    chosen.add_argument("--without", type=Path, help="JSON list with the image_id of every image to leave out")
    parts.add_parser("documents").add_argument("--scenes", type=int, default=400)
    chosen = parts.add_parser("speed")
    chosen.add_argument("captions", type=Path, nargs="+", metavar="JSON")
    chosen.add_argument("--limit", type=int, help="maximum number of captions per file")
    run(options, lambda given: PARTS[given.part](given))
