"""Parsing judged by human annotations: FACTUAL's graphs and V-COCO's interactions, as the benchmarks measure it."""

from benchmarks.parsing import (
    LITERAL,
    captions_of,
    categories_of,
    gold_of,
    graph,
    read_interactions,
    rows_of,
    score,
    shares,
    shares_of,
    triplets_of,
)
from tagger.matching import read_paraphrases
from tagger.parsing.parser import DEFAULT_PARSER


def test_a_graph_is_read_in_lemmas_without_attributes() -> None:
    text = "( two men , laying on , the beds ) , ( men , is , tall ) , ( broken"
    assert graph(text) == {("two man", "lie on", "the bed")}


def test_captions_are_read_as_people_read_them(shared) -> None:
    captions, graphs = rows_of(shared / "data/factual/dev.csv")
    precision, recall = score(triplets_of(captions, DEFAULT_PARSER), graphs)
    assert precision >= 0.65
    assert recall >= 0.62


def test_interactions_are_proposed_thrice_as_often_as_the_authors_way_does(shared) -> None:
    folder = shared / "data/coco/annotations"
    paraphrases = read_paraphrases(shared / "data/rlipv2_priors/hico_obj_paraphrase.json")
    captions = captions_of(folder)["BLIP"]
    found = shares(captions, categories_of(folder), gold_of(folder), LITERAL, paraphrases)
    (recall, precision), (their_recall, their_precision) = found["ours"], found["authors"]
    assert recall >= 3 * their_recall
    assert precision >= their_precision


def test_what_follows_from_a_relation_follows_where_people_annotated_both(shared) -> None:
    implied = shares_of(read_interactions(shared / "data/vcoco/instances_vcoco_train.json"))
    assert min(share for share, pairs in implied.values() if pairs >= 10) >= 0.7
