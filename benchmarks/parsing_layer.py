"""Trains the parser's learned layer: `python -m benchmarks.parsing_layer TRAIN_CSV` writes tagger/parsing/layer.npz.

TRAIN_CSV is FACTUAL's train split (columns `image_id`, `caption`, `scene_graph`), to be downloaded from
github.com/zhuang-li/FactualSceneGraph. One image in twenty is held out; its captions give the figures that are printed.
"""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from spacy.tokens import Token

from benchmarks.harness import Row, parser, run
from benchmarks.parsing import Stated, graph, lemmas_of, score
from tagger.english.lemmas import noun_lemma
from tagger.parsing import LAYER
from tagger.parsing.extraction import Extraction
from tagger.parsing.layer import BITS, Features, Layer, NounPair, Rewordings, form_choices, pairs, relation_choices
from tagger.parsing.parser import load_parser, parse_captions, refusal, trees

T, U = TypeVar("T"), TypeVar("U")

HELD_OUT = 20
EPOCHS = 4
PARTS = 4
"""Parts of an epoch, after each of which the weights count towards the average."""
RATE = 0.5
LEAST = 5  # pairs of a train split that a rewording needs
MOST = 8  # rewordings of the same words
MISNAMED = {("brush", "wash"): "brush"}  # a caption's words, and what FACTUAL's graphs make of them → what labels need
CALLED = {"guy": "person", "dude": "person", "tee shirt": "t-shirt"}  # a caption's noun → what FACTUAL's graphs call it


class Choices:
    """Choices to learn from: the hashed features of each option, where each choice ends, and which option is right."""

    def __init__(self) -> None:
        self._features: list[Features] = []
        self._ends: list[int] = [0]
        self._right: list[int] = []

    def add(self, features: Features, right: int) -> None:
        """Adds a choice; `right` is -1 where none is right."""
        self._features.append(features)
        self._ends.append(self._ends[-1] + len(features))
        self._right.append(right)

    def learn(self, has_none: bool) -> NDArray[np.float32]:
        """Returns weights fitted by AdaGrad to the log-loss of the softmax, averaged over the epochs."""
        arrays = np.concatenate(self._features), np.array(self._ends), np.array(self._right)
        weights, squares, total = (np.full(1 << BITS, start, np.float32) for start in (0, 1, 0))
        for epoch in range(EPOCHS):
            order = np.random.RandomState(epoch).permutation(len(self._right))
            for part in np.array_split(order, PARTS):
                _pass(weights, squares, *arrays, part, has_none)
                total += weights
        return total / (EPOCHS * PARTS)


@njit(cache=True)
def _pass(weights, squares, features, ends, right, order, has_none) -> None:  # type: ignore
    for choice in order:
        first, last = ends[choice], ends[choice + 1]
        scores = np.zeros(last - first)
        for option in range(first, last):
            for index in features[option]:
                scores[option - first] += weights[index]
        top = max(scores.max(), 0.0) if has_none else scores.max()
        total = np.exp(scores - top).sum() + (np.exp(-top) if has_none else 0.0)
        for option in range(first, last):
            slope = np.exp(scores[option - first] - top) / total - (1.0 if right[choice] == option - first else 0.0)
            for index in features[option]:
                squares[index] += slope * slope
                weights[index] -= RATE * slope / np.sqrt(squares[index])


def examples(path: Path) -> tuple[list[str], list[set[Stated]], list[bool]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if refusal(row["caption"]) is None]
    held = [int(row["image_id"]) % HELD_OUT == 0 for row in rows]
    return [row["caption"] for row in rows], [graph(row["scene_graph"]) for row in rows], held


def train(captions: Sequence[str], graphs: Sequence[set[Stated]]) -> tuple[NDArray[np.float32], Rewordings]:
    """Returns the weights, and the rewordings of the words between two nouns."""
    forms, known = Choices(), list[tuple[NounPair, set[tuple[str, bool]]]]()
    meant: dict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
    for caption, wanted, tree in zip(captions, graphs, trees(captions, load_parser()), strict=True):
        extraction = Extraction(tree, caption, (0, len(caption)))
        extraction.triplets()
        named = {noun for subject, _, object_ in wanted for noun in (subject, object_)}
        lemmas = {noun.i: names_of(noun, extraction.mentions.lemma(noun)) for noun in extraction.nouns()}
        for head, options, features in split(*form_choices(tree, extraction.mentions)):
            lemmas.setdefault(head, set()).update(options)
            right = max((at for at, option in enumerate(options) if option in named), default=-1)
            if right >= 0:
                forms.add(features, right)
        stated = [(spelled(subject), predicate, spelled(object_)) for subject, predicate, object_ in wanted]
        for pair in pairs(tree, extraction.mentions, extraction.nouns(), extraction.found):
            first, second = (set(map(spelled, lemmas[noun.i])) for noun in (pair.left, pair.right))
            gold = {(p, False) for s, p, o in stated if s in first and o in second}
            gold |= {(p, True) for s, p, o in stated if s in second and o in first}
            gold = {(MISNAMED.get((pair.words.text, predicate), predicate), swapped) for predicate, swapped in gold}
            known.append((pair, gold))
            meant[pair.words.text].update(gold)
    relations, rewordings = Choices(), rewordings_of(meant)
    golds = {id(pair): gold for pair, gold in known}
    for pair, options, features in split(*relation_choices((pair for pair, _ in known), rewordings)):
        gold = golds[id(pair)]
        right = next((at for at, o in enumerate(options) if (o.predicate, o.subject != pair.left.i) in gold), -1)
        if right >= 0 or not gold:
            relations.add(features, right)
    return forms.learn(has_none=False) + relations.learn(has_none=True), rewordings


def names_of(noun: Token, lemma: str) -> set[str]:
    """Returns what a graph may call a noun: "cell phone" or "phone"."""
    return {lemma, noun_lemma(noun.lower_)}


def spelled(name: str) -> str:
    """Returns a form that a caption's name and the graph's share: graphs say "cellphone" and "person"."""
    return CALLED.get(name, name).replace(" ", "").replace("-", "")


def split(
    things: Sequence[T], options: Sequence[Sequence[U]], features: Features
) -> Iterator[tuple[T, Sequence[U], Features]]:
    """Yields each thing with its options, and with the features of these."""
    start = 0
    for thing, of_thing in zip(things, options, strict=True):
        yield thing, of_thing, features[start : start + len(of_thing)]
        start += len(of_thing)


def rewordings_of(meant: Mapping[str, Counter[tuple[str, bool]]]) -> dict[str, list[tuple[str, bool]]]:
    """Returns the commonest predicates for the words between two nouns, and whether these swap the nouns."""
    # A desk with a laptop is no laptop with a desk.
    common = {
        words: [key for key, count in counts.most_common(MOST) if count >= LEAST and key != (words, True)]
        for words, counts in meant.items()
    }
    return {words: keys for words, keys in common.items() if words and keys}


def measure(given: Namespace) -> Iterator[Row]:
    captions, graphs, held = examples(given.csv)
    used = [at for at, out in enumerate(held) if not out]
    apart = [at for at, out in enumerate(held) if out]
    weights, rewordings = train([captions[at] for at in used], [graphs[at] for at in used])
    np.savez_compressed(
        LAYER, weights=weights.astype(np.float16), rewordings=np.frombuffer(json.dumps(rewordings).encode(), np.uint8)
    )
    layer = Layer(weights.astype(np.float16).astype(np.float32), rewordings)
    wanted = [graphs[at] for at in apart]
    for name, chosen in (("rules", None), ("learned", layer)):
        found = lemmas_of(parse_captions([captions[at] for at in apart], load_parser(), layer=chosen))
        precision, recall = score(found, wanted)
        yield Row(f"{name}: precision", "share", precision, note=f"{len(apart)} captions held out")
        yield Row(f"{name}: recall", "share", recall)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("csv", type=Path, help="FACTUAL's train split")
    run(options, measure)
