"""Parsing judged by human annotations: FACTUAL's graphs and V-COCO's interactions, as the benchmarks measure it."""

import pytest

from benchmarks import parsing
from tagger.matching import read_paraphrases


def test_a_graph_is_read_in_lemmas_without_attributes() -> None:
    text = "( two men , laying on , the beds ) , ( men , is , tall ) , ( broken"
    assert parsing.graph(text) == {("two man", "lie on", "the bed")}


@pytest.mark.parametrize(
    ("layer", "least"), [("rules", (0.70, 0.67, 0.79, 0.76)), ("learned", (0.77, 0.73, 0.85, 0.80))]
)
def test_captions_are_read_as_people_read_them(shared, layer: str, least: tuple[float, ...]) -> None:
    captions, texts = parsing.rows_of(shared / "data/factual/dev.csv")
    found, wanted = parsing.lemmas_of(parsing.parsed(captions, layer)), [parsing.graph(text) for text in texts]
    reached = (*parsing.score(found, wanted), *parsing.score(parsing.pairs_of(found), parsing.pairs_of(wanted)))
    assert all(share >= limit for share, limit in zip(reached, least, strict=True)), reached


def test_triplets_are_written_as_a_graph_of_factual() -> None:
    [triplets] = parsing.parsed(["two brown horses on a beach"])
    assert parsing.written(triplets) == "( horses , is , brown ) , ( horses , is , 2 ) , ( horses , on , beach )"


def test_interactions_are_proposed_thrice_as_often_as_the_authors_way_does(shared) -> None:
    folder = shared / "data/coco/annotations"
    paraphrases = read_paraphrases(shared / "data/rlipv2_priors/hico_obj_paraphrase.json")
    captions = parsing.captions_of(folder)["BLIP"]
    found = parsing.shares(
        captions, parsing.categories_of(folder), parsing.gold_of(folder), parsing.LITERAL, paraphrases
    )
    (recall, precision), (their_recall, their_precision) = found["ours"], found["authors"]
    assert recall >= 3 * their_recall
    assert precision >= their_precision


def test_what_follows_from_a_relation_follows_where_people_annotated_both(shared) -> None:
    implied = parsing.shares_of(parsing.read_interactions(shared / "data/vcoco/instances_vcoco_train.json"))
    assert min(share for share, pairs in implied.values() if pairs >= 10) >= 0.7
