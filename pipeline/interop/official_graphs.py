"""Reads and writes the authors' captions and scene graphs: image id → captions, or SceneGraphParser's graph of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.annotations import as_id, as_object, readable
from pipeline.data.datasets.record import Draft, Unusable
from pipeline.runtime.stage import Rejected
from storage.tables import INT, LONG, TEXT
from tagger.candidates.official import official_groups
from tagger.english.lemmas import phrase_lemma
from tagger.english.predicates import canonical
from tagger.pair import Pair

IMPORTED_RULE = "imported"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_ARTICLES = ("a", "an", "the")


def read_graphs(
    image_id: int, graphs: Any, captions: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts graphs to a row of `triplets` and rejects. `captions`: the image's, if known, for character offsets.

    If there are as many graphs as captions, both have the same order. Otherwise, graphs have the numbers of draws, some
    of which are no longer captions. The table has no place for entities without a relation; they are rejected, as are
    relations of unknown entities.
    """
    draft = Draft(image_id)
    triplets: list[dict[str, Any]] = []
    listed = draft.listed({"graphs": graphs}, "graphs")
    draws = range(len(captions)) if len(listed) == len(captions) else [caption["draw"] for caption in captions]
    numbers = {draw: place for place, draw in reversed([*enumerate(draws)])}
    for draw, graph in enumerate(listed):
        with draft.rejecting(graph):
            if captions and draw not in numbers:
                raise Unusable("graph of a caption that the run lacks")
            number = numbers.get(draw, draw)
            entities, relations = (as_object(graph).get(name) for name in ("entities", "relations"))
            if not isinstance(entities, list) or not isinstance(relations, list):
                raise Unusable("graph malformed")
            text = captions[number]["text"] if captions else ""
            places = _places(text)
            nouns = dict(enumerate(_noun(entity, text, places) for entity in entities))
            used: set[int | None] = set()
            for relation in relations:
                with draft.rejecting(relation):
                    values = as_object(relation)
                    ends = [as_id(values.get(role)) for role in ("subject", "object")]
                    predicate = values.get("relation")
                    if not isinstance(predicate, str) or not readable(predicate).strip():
                        raise Unusable("relation malformed")
                    subject, object_ = (None if end is None else nouns.get(end) for end in ends)
                    if subject is None or object_ is None:
                        raise Unusable("relation of unknown entity")
                    used.update(ends)
                    triplets.append(_triplet(number, subject, readable(predicate), object_, values))
            draft.rejects += [Rejected(image_id, "entity without a relation")] * len(nouns.keys() - used)
    return {"image_id": image_id, "triplets": triplets}, draft.rejects


def write_graphs(row: Mapping[str, Any], texts: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """Converts a row of `triplets` to a field of the file: one graph per caption of the image.

    The fields `rule` of a relation and `count` of an entity are ours. With them, `read_graphs` keeps lemmas
    and ends as they are ("of": have, with its ends swapped). Readers of the authors' format ignore both.
    """
    found = max((t["caption"] + 1 for t in row["triplets"]), default=0)
    graphs: list[dict[str, Any]] = [{"entities": [], "relations": []} for _ in range(max(len(texts), found))]
    entities: list[dict[tuple[Any, ...], int]] = [{} for _ in graphs]
    for t in row["triplets"]:
        number = t["caption"]
        text = texts[number] if number < len(texts) else ""
        ends = {}
        for role in ("subject", "object"):
            # The same words may name two things: who sits at a table sits on a chair.
            key = (t[role], t[f"{role}_start"], t[f"{role}_end"], t[f"{role}_lemma"])
            if key not in entities[number]:
                entities[number][key] = len(graphs[number]["entities"])
                graphs[number]["entities"].append(_entity(t, role, text))
            ends[role] = entities[number][key]
        words = {"relation": t["predicate"], "lemma_relation": t["predicate_lemma"], "rule": t["rule"]}
        graphs[number]["relations"].append({**ends, **words})
    return str(row["image_id"]), graphs


def _entity(t: Mapping[str, Any], role: str, text: str) -> dict[str, Any]:
    span, lemma, count = t[role], t[f"{role}_lemma"], t.get(f"{role}_count", 1)
    described = [("amod", word) for word in t.get(f"{role}_attributes") or ()]
    counted = [("nummod", _NUMBERS[count - 1])] if count and 1 < count <= len(_NUMBERS) else []
    article = [("det", word) for word in span.lower().split()[:1] if word in _ARTICLES]
    return {
        "span": span.lower(),
        "lemma_span": lemma,
        "head": span.lower().split()[-1] if span.split() else span,
        "lemma_head": lemma.rpartition(" ")[2],
        "span_bounds": _bounds(text, t[f"{role}_start"], t[f"{role}_end"]),
        "modifiers": [{"dep": dep, "span": word, "lemma_span": word} for dep, word in (*article, *counted, *described)],
        "type": "unknown",
        "count": count,
    }


def _noun(entity: Any, text: str, places: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """Returns the columns that an entity fills for one end of a triplet; None if it has no text."""
    values = as_object(entity)
    span = values.get("span")
    if not isinstance(span, str) or not readable(span).strip():
        return None
    lemma, head = values.get("lemma_span"), values.get("lemma_head")
    named = next((text for text in (lemma, head) if isinstance(text, str) and readable(text).strip()), span)
    modifiers = [m for m in _list(values.get("modifiers")) if isinstance(m, dict) and isinstance(m.get("span"), str)]
    numbers = [m["span"] for m in modifiers if m.get("dep") == "nummod" and m["span"] in _NUMBERS]
    start, end = _characters(values.get("span_bounds"), places)
    # The file has spans in lower case, the caption has them as they were written.
    written = text[start:end] if start >= 0 else ""
    own = as_id(values.get("count"))
    is_ours = own is not None and 0 <= own < 2**31
    words = " ".join(word for word in readable(named).split() if word.lower() not in _ARTICLES)
    return {
        "": written if written.lower() == span else readable(span),
        "_lemma": readable(named) if is_ours else phrase_lemma(words),
        "_start": start,
        "_end": end,
        "_count": own if is_ours else _NUMBERS.index(numbers[0]) + 1 if numbers else 1,
        "_attributes": [readable(m["span"]) for m in modifiers if m.get("dep") in ("amod", "compound")],
    }


def _triplet(
    number: int, subject: dict[str, Any], predicate: str, object_: dict[str, Any], relation: Mapping[str, Any]
) -> dict[str, Any]:
    rule, lemma = relation.get("rule"), relation.get("lemma_relation")
    is_ours = isinstance(rule, str) and isinstance(lemma, str) and bool(readable(lemma).strip())
    ends = {
        f"{role}{name}": value
        for role, noun in (("subject", subject), ("object", object_))
        for name, value in noun.items()
    }
    return ends | {
        "predicate": predicate,
        "predicate_lemma": readable(str(lemma)) if is_ours else canonical(predicate),
        "predicate_start": -1,
        "predicate_end": -1,
        "caption": number,
        "rule": readable(str(rule)) if is_ours else IMPORTED_RULE,
    }


def _places(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _TOKEN.finditer(text)]


def _bounds(text: str, start: int, end: int) -> list[int]:
    """Returns the token bounds that a character range covers; [0, 0] if the caption or the range is unknown."""
    covered = [number for number, (first, last) in enumerate(_places(text)) if first < end and last > start >= 0]
    return [covered[0], covered[-1] + 1] if covered else [0, 0]


def _characters(bounds: Any, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    ends = [as_id(bound) for bound in _list(bounds)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not 0 <= ends[0] < ends[1] <= len(places):
        return -1, -1
    return places[ends[0]][0], places[ends[1] - 1][1]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read_captions(image_id: int, texts: Any, source: str) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts texts to a row of `captions` from `source`. Rejects what is not text; draws keep their numbers."""
    draft, kept = Draft(image_id), []
    for number, text in enumerate(draft.listed({"captions": texts}, "captions")):
        if isinstance(text, str) and text:
            known = {"draw": number, "seed": None, "log_probability": None, "source": source}
            kept.append({"text": readable(text), **known})
        else:
            draft.reject("caption not a text", text)
    return {"image_id": image_id, "captions": kept}, draft.rejects


_GROUP = pa.struct({"pairs": pa.list_(pa.struct({"subject": INT, "object": INT})), "predicates": pa.list_(TEXT)})
GROUPS = pa.schema({"image_id": LONG, "groups": pa.list_(_GROUP)})
"""Imported candidates. They stay grouped, because the file does not state which text belongs to which pair."""
_MAX_BOXES = 2**31


def read_groups(image_id: int, groups: Any) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts groups to a row of `groups` and rejects."""
    draft = Draft(image_id)
    kept: list[dict[str, Any]] = []
    for group in draft.listed({"groups": groups}, "groups"):
        if not (isinstance(group, list) and len(group) == 2 and all(isinstance(part, list) for part in group)):
            draft.reject("group malformed", group)
            continue
        pairs, texts = [], []
        for pair in group[0]:
            ends = [as_id(end) for end in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
            if all(end is not None and 0 <= end < _MAX_BOXES for end in ends):
                pairs.append(dict(zip(("subject", "object"), ends, strict=True)))
            else:
                draft.reject("pair malformed", pair)
        for text in group[1]:
            if isinstance(text, str) and text:
                texts.append(readable(text))
            else:
                draft.reject("predicate not a text", text)
        kept.append({"pairs": pairs, "predicates": texts})
    return {"image_id": image_id, "groups": kept}, draft.rejects


def write_groups(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Converts a row of `groups` to a field of the file."""
    groups = [[[[p["subject"], p["object"]] for p in g["pairs"]], g["predicates"]] for g in row["groups"]]
    return str(row["image_id"]), groups


def write_candidates(image: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Converts a row of `candidates` to a field of the file: distinct, sorted by pair, indices without crowd boxes."""
    places = {index: at for at, index in enumerate(i for i, box in enumerate(image["boxes"]) if not box["crowd"])}
    stated = dict.fromkeys(
        (places[p["subject"]], places[p["object"]], p["predicate"])
        for p in row["pairs"]
        if p["subject"] in places and p["object"] in places
    )
    listed = sorted(stated, key=lambda candidate: candidate[:2])
    groups = official_groups([Pair(subject, object_, text, -1, 0) for subject, object_, text in listed])
    return str(row["image_id"]), [[[list(pair) for pair in pairs], texts] for pairs, texts in groups]
