"""Parsing judged by human annotations: FACTUAL's graphs and V-COCO's interactions, as the benchmarks measure it."""

from benchmarks.implications import shares_of
from benchmarks.interactions import LITERAL, captions_of, categories_of, gold_of
from benchmarks.interactions import measure as measure_interactions
from benchmarks.parsing import graph, measure, rows_of
from benchmarks.vcoco_gold import read_interactions
from tagger.matching import read_paraphrases
from tagger.parsing.parser import DEFAULT_PARSER


def test_a_graph_is_read_in_lemmas_without_attributes() -> None:
    text = "( two men , laying on , the beds ) , ( men , is , tall ) , ( broken"
    assert graph(text) == {("two man", "lie on", "the bed")}


def test_captions_are_read_as_people_read_them(shared) -> None:
    captions, graphs = rows_of(shared / "data/factual/dev.csv")
    read, _ = measure(captions, graphs, DEFAULT_PARSER)
    figures = read.triplets.figures()
    assert figures["precision"] >= 0.65
    assert figures["recall"] >= 0.62


def test_interactions_are_proposed_thrice_as_often_as_the_authors_way_does(shared) -> None:
    folder = shared / "data/coco/annotations"
    paraphrases = read_paraphrases(shared / "data/rlipv2_priors/hico_obj_paraphrase.json")
    captions = captions_of(folder)["BLIP"]
    found = measure_interactions(captions, categories_of(folder), gold_of(folder), LITERAL, paraphrases)
    assert found["ratio"] >= 3
    assert found["right of proposed"]["ours"] >= found["right of proposed"]["authors"]


def test_what_follows_from_a_relation_follows_where_people_annotated_both(shared) -> None:
    shares = shares_of(read_interactions(shared / "data/vcoco/instances_vcoco_train.json"))
    assert min(share for share, pairs in shares.values() if pairs >= 10) >= 0.7
