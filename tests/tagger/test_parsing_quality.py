"""What people checked: FACTUAL's graphs, by the benchmark that reports on them."""

from benchmarks.parsing import graph, measure, rows_of
from tagger.parsing import DEFAULT_PARSER


def test_a_graph_is_read_in_lemmas_without_attributes() -> None:
    text = "( two men , laying on , the beds ) , ( men , is , tall ) , ( broken"
    assert graph(text) == {("two man", "lie on", "the bed")}


def test_captions_are_read_as_people_read_them(shared) -> None:
    captions, graphs = rows_of(shared / "data/factual/dev.csv")
    read, _ = measure(captions, graphs, DEFAULT_PARSER)
    figures = read.triplets.figures()
    assert figures["precision"] >= 0.65
    assert figures["recall"] >= 0.62
