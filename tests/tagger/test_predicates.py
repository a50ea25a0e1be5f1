import pytest
from hypothesis import example, given, settings, strategies as st

from tagger.english.predicates import canonical
from tagger.english.words import words

FORMS = {
    "ride": ["ride", "rides", "riding", "is riding", "RIDING", "rode", "riding on", "riding on top of",
             "has been riding", "riding on the back of"],
    "wear": ["wearing", "wears", "is wearing a", "wore", "dressed in"],
    "hold": ["holding", "holds", "holding up", "held", "gripping"],
    "carry": ["carried", "carries", "carrying"],
    "walk": ["walking", "walks", "is walking"],
    "sit on": ["sit_on", "sits on", "sitting on", "sitting on top of", "seated on", "sat on", "SITS ON",
               "sitting down on", "sitting atop"],
    "lie on": ["lying on", "laying on", "lies on", "laying down on", "lying on top of"],
    "stand on": ["standing on", "stands on", "standing on top of"],
    "look at": ["looking at", "looks at", "staring at", "looking up at", "looking over at", "is looking at",
                "gazing at"],
    "next to": ["next to", "beside", "adjacent to", "alongside", "standing next to", "sitting beside",
                "next to each other", "right next to", "parked next to"],
    "under": ["under", "below", "beneath", "underneath", "standing under", "stand_under"],
    "on": ["on", "ON", "on top of", "atop", "is on", "upon", "placed on"],
    "in": ["in", "inside", "inside of", "within", "in the middle of", "is in the back of"],
    "behind": ["behind", "standing behind", "in back of", "standing right behind"],
    "in front of": ["in front of", "in the front of", "parked in front of", "standing in front of"],
    "near": ["near", "close to", "nearby", "standing near", "parked by", "by"],
    "above": ["above", "over"],
    "left of": ["left of", "to the left of", "on the left side of"],
    "jump over": ["jumping over", "jumps over"], "walk next to": ["walking next to", "walking beside"],
    "ridden by": ["ridden by", "being ridden by", "is ridden by"], "held by": ["held by", "being held by"],
    "no interaction": ["no_interaction"], "talk on": ["talking on", "talk_on"],
    "try to catch": ["trying to catch", "tries to catch"], "feed": ["feed", "feeding", "feeds", "fed"],
    "see": ["saw", "sees"], "be": ["is", "are", "being"], "have": ["has", "have", "having"],
    "around": ["around", "sitting around", "standing around"], "look over": ["looking over"],
    "lean over back of": ["leaning over the back of"], "lean out of": ["leaning out of"],
    "": ["", "  ", "!?", "\x00\x1f", "🐎"],
}  # fmt: skip


@pytest.mark.parametrize("wanted", FORMS)
def test_surface_forms_share_one_canonical_form(wanted):
    assert {text: canonical(text) for text in FORMS[wanted]} == dict.fromkeys(FORMS[wanted], wanted)


WORDS = words(
    "is been being has riding ridden saw left laid lay found seated right next to by on top of in front the a over "
    "back out side each other not stands placed wound leaves near close up down no with and standing beside"
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(sorted(WORDS)), max_size=6).map(" ".join) | st.text(max_size=40))
@example("İ")
@example("\ud800")
@example("being being by")
@example("right right of of")
@example("seen set of")
def test_canonical_is_total_and_idempotent(text):
    assert canonical(canonical(text)) == canonical(text)


def test_hico_verbs_stay_distinct(shared):
    lines = (shared / "data/hico_det/hico_list_vb.txt").read_text().splitlines()[2:]
    verbs = [line.split()[1] for line in lines]
    assert len({canonical(verb) for verb in verbs}) == len(verbs) == 117
