"""`rlip explain` traces the labels of an image from file to score, and reports a name that fits no image or several."""

import json

import pytest
from run_builder import TWO_PEOPLE, captions, pairs, relations, triplets

from pipeline.cli.explain import explain, trace_of
from pipeline.training.settings import fold_of
from storage.errors import FatalError
from storage.local_store import LocalStore


def test_a_label_tells_words_rule_caption_and_score(labelled):
    lineage = trace_of(labelled.run, "toys/1")
    assert lineage.partition == "toys/0000" and lineage.image["uri"] == "1.png"
    assert [caption["text"] for caption in lineage.captions] == ["a man rides a horse", "a man holds a cup"]
    best = lineage.labels[0]
    assert (best["subject"], best["predicate"], best["object"]) == (0, "ride", 2)
    assert best["score"] == pytest.approx(0.9)
    assert (best["words"]["subject"], best["words"]["rule"]) == ("man", "hand")
    assert best["caption"]["text"] == "a man rides a horse"
    assert [label["score"] for label in lineage.labels] == sorted((x["score"] for x in lineage.labels), reverse=True)


def test_a_label_that_reviewers_added_comes_after_the_scored_ones(labelled, capsys):
    added = {"image_id": 1, "subject": 1, "predicate": "lead", "object": 2, "holds": True}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75}, overrides=[added])
    *scored, last = trace_of(labelled.run, "toys/1").labels
    assert (last["predicate"], last["score"], last["not_kept"]) == ("lead", None, None) and scored
    explain("toys/1", None, store=labelled.run.store.root, as_json=False)
    assert "added by a reviewer: #1 person | lead | #2 horse" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["1", "toys/1", "1.png", "/data/toys/1.png", "../toys/1.png"])
def test_an_image_is_named_by_id_by_set_and_id_or_by_file(labelled, name):
    assert trace_of(labelled.run, name).image["image_id"] == 1


def test_an_unknown_image_and_an_ambiguous_one_are_reported(labelled):
    for name in ("toys/77", "9" * 30, "²", "", "../1"):
        with pytest.raises(FatalError, match=f"no image {name!r}"):
            trace_of(labelled.run, name)
    labelled.add("ingest", "more/0000", [labelled.image(1, TWO_PEOPLE, dataset="more")])
    with pytest.raises(FatalError, match="2 images: toys/1, more/1"):
        trace_of(labelled.run, "1")
    assert trace_of(labelled.run, "more/1").labels == []


def test_a_store_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FatalError, match=r"has 0 runs; `rlip run RECIPE` creates one"):
        explain("1", None, store=LocalStore(tmp_path).root, as_json=False)


def test_what_it_says_fits_a_terminal_and_a_machine(labelled, capsys):
    root = labelled.run.store.root
    explain("2", None, store=root, as_json=False)
    text = capsys.readouterr().out
    assert "box #0 person" in text and "0.600 #0 person | ride | #2 horse" in text
    explain("2", "toy", store=root, as_json=True)
    assert json.loads(capsys.readouterr().out)["image"]["image_id"] == 2


def test_a_label_of_ambiguous_words_tells_how_sure_they_are(book, capsys):
    found = pairs(1, (0, "ride", 2, 2), (1, "ride", 2, 2))
    for pair, prior in zip(found["pairs"], (1 / 256, 255 / 256), strict=True):
        pair |= {"mention": 0, "prior": prior, "support": 1}
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("parse", "toys/0000", [triplets(1, (0, "man", "ride", "horse"))])
    row = relations(1, (0, "ride", 2, 0.9))
    row["relations"][0] |= {"tagger_part": 2.2, "prior_part": -0.29, "posterior_part": 0.0, "captions_part": -0.55}
    book.add("tag", "toys/0000", [row], candidates=[found])
    [label] = trace_of(book.run, "1").labels
    assert [mention["prior"] for mention in label["mentions"]] == [1 / 256]
    explain("1", None, store=book.run.store.root, as_json=False)
    text = capsys.readouterr().out
    assert "(rule hand, one of 2 pairs, prior 0.00391)" in text
    parts = "tagger +2.20, boxes and names -0.29, other pairs of the mention +0.00, captions -0.55"
    assert f"probability 0.900; added log-odds: {parts}" in text


def test_control_characters_do_not_reach_the_terminal(book, capsys):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    stated = captions(1, "a \x1b[31mred\x1b[0m man")
    stated["captions"][0]["boxes"] = [0, 2]
    book.add("caption", "toys/0000", [stated])
    book.add("parse", "toys/0000", [triplets(1, (0, "\x1b[2Jman", "ride", "horse"))])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1, (0, "ride", 2, 1))])
    explain("1", None, store=book.run.store.root, as_json=False)
    text = capsys.readouterr().out
    assert "\x1b[2J" not in text and "man (draw 0, seed 0, of #0, of #2)" in text


def test_the_tagger_is_the_one_that_has_not_seen_the_image(book):
    taggers, images = [letter * 64 for letter in "abc"], range(1, 7)
    book.add("ingest", "toys/0000", [book.image(number, TWO_PEOPLE) for number in images])
    labels = [relations(number, (0, "ride", 2, 0.9)) for number in images]
    book.add("tag", "toys/0000", labels, candidates=[], inputs={"tagger": taggers})
    found = [trace_of(book.run, str(number)).tagger for number in images]
    assert found == [taggers[fold_of("toys", number, 3)] for number in images] and len(set(found)) > 1
