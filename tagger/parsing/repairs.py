"""Corrects the small spaCy model's errors on short captions, in its tree, before the rules read it."""

from itertools import pairwise

from spacy.tokens import Doc, Token

from tagger.categories.names import ANIMATE, COCO, OBJECTS365, PEOPLE
from tagger.english.lemmas import known_lemmas, noun_lemma, verb_lemma
from tagger.english.words import (
    BODY_PARTS,
    COLOURS,
    FUNCTION_WORDS,
    GARMENTS,
    MATERIALS,
    SEVERAL,
    TOOLS,
    phrases,
    words,
)
from tagger.parsing.tree import LOCATIONS, PART_NOUNS, RECIPROCALS, is_done_by_things, is_incapable

GERUNDS = words(
    "standing sitting laying lying walking running riding holding wearing carrying grazing swimming flying eating "
    "looking playing jumping landing driving sleeping resting hanging traveling crossing leaning posing feeding "
    "drinking chasing pulling pushing watching using skiing surfing skateboarding snowboarding floating talking "
    "waiting kneeling crouching drying reaching reading smiling"
)
"""Participles that the model often reads as nouns."""
_MODIFIERS = words("compound amod nmod npadvmod")
# Plurals that can modify another noun.
_PLURAL_MODIFIERS = words("sports clothes glasses")
_NAMES = frozenset((*COCO, *OBJECTS365)).union(*COCO.values())
# In "holds a bowl with a spoon", the object may have its own tools.
_KEEPING = words("hold have carry contain show see")
# Category names that captions also use as verbs.
_ALSO_VERBS = words("ski kite skateboard snowboard surfboard bat")
# After these, "to" is a preposition.
_SPORTS = phrases("kite, wind, water, sky, para, cross country")
_BEFORE_TO = words("next close adjacent attached connected tied")
_OWNERS = words("his her its their my your our")
_CATEGORY_HEADS = frozenset(noun_lemma(name.split()[-1]) for name in COCO) - _ALSO_VERBS


def repair(doc: Doc) -> None:
    """Corrects the tree in place: participles read as nouns, category names not read as nouns, tools read as parts."""
    for before, token in pairwise(doc):
        if _is_place_of_it(token, before) or _is_place_of_part(token, before):
            token.head = before
    for before, token in pairwise(doc):
        if _is_hidden_gerund(token, before):
            _make_clause(token, before)
        elif _is_auxiliary_of_noun(token, before):
            _make_main_verb_of_possession(token, before)
        elif (fronted := _fronted_object(token)) is not None:
            _make_fronted(fronted, token)
        elif _is_side_by_side(before):
            _make_adverb(before)
        elif _is_after_reciprocal(token, before):
            _detach_clause(token, before.nbor(-2))
        elif token.dep_ == "acl" and token.pos_ == "NOUN" and token.lower_ in GERUNDS:
            token.pos_, token.tag_ = "VERB", "VBG"
        elif _is_verb_behind_object(token, before):
            _make_main_verb(token, before)
        elif _is_hidden_verb(token, before):
            _make_verb(token, before)
        elif _is_hidden_subject(before, token):
            before.dep_ = "nsubj"
        elif (person := _subject_of_sport(token)) is not None:
            _make_subject_of_sport(person, token)
        elif _is_described_in_place(token, before):
            _make_description(token, before)
        elif _is_first_of_list(before, token):
            last = before.head
            _take_place(before, last)
            last.dep_ = "conj"
        elif _is_split_list(token):
            token.dep_ = "conj"
        elif _is_hidden_object(token):
            preposition = token.left_edge.nbor(-1)
            preposition.dep_, token.head, token.dep_ = "prep", preposition, "pobj"
        elif _is_split_name(token, before) or _is_split_compound(token, before):
            _make_head(token, before)
        elif _is_about_it(token, before):
            token.head = before
        elif _is_tool_of_verb(token):
            token.head = token.head.head
        elif _is_last_noun(token, before) or _is_hidden_noun(token, before) or _is_hidden_name(token, before):
            _make_noun(token)
        elif _is_thing_in_ing(token, before) or _is_pronoun_one(token, before):
            token.pos_ = "NOUN"
        elif _is_split_tool(before, token):
            _make_head(token, before)


def _is_hidden_gerund(token: Token, before: Token) -> bool:
    """Detects gerunds read as nouns that a noun modifies: "a zebra standing in a field", "a woman drinking juice"."""
    if not token.lower_.endswith("ing") or before.dep_ not in _MODIFIERS:
        return False
    if before.head != token:
        return before.head == token.head and _is_clause_inside(token, before)
    is_verb = token.tag_ == "VBG" or token.lower_ in GERUNDS
    return is_verb and (before.pos_ in ("NOUN", "PROPN") or noun_lemma(before.lower_) in _NAMES)


def _is_inner(token: Token) -> bool:
    """Whether the word modifies a later one."""
    return token.dep_ in _MODIFIERS and token.head.i > token.i


def _is_clause_inside(gerund: Token, noun: Token) -> bool:
    """Detects "a beach flying kites" read as kites of a kind, unlike "a pedestrian crossing sign"."""
    lemma = noun_lemma(noun.lower_)
    is_apart = lemma in GARMENTS | LOCATIONS or (lemma in ANIMATE and noun.head != gerund)
    return _is_inner(gerund) and gerund.lower_ in GERUNDS and is_apart


def _make_clause(gerund: Token, noun: Token) -> None:
    thing = gerund.head if _is_clause_inside(gerund, noun) else None
    _take_place(noun, thing or gerund)
    gerund.dep_, gerund.pos_, gerund.tag_ = "acl", "VERB", "VBG"
    if thing is not None:
        gerund.head, thing.head = noun, gerund
        thing.dep_ = "dobj"


def _is_after_reciprocal(token: Token, before: Token) -> bool:
    """Detects "next to each other holding rackets" read as next to rackets."""
    is_modifier = token.tag_ == "VBG" and _is_inner(token)
    is_behind = token.i > 2 and token.doc[token.i - 2 : token.i].text in RECIPROCALS
    return is_modifier and is_behind and not token.head.is_ancestor(token.nbor(-3))


def _detach_clause(gerund: Token, preposition: Token) -> None:
    noun = gerund.head
    for child in [child for child in noun.lefts if child.i < gerund.i]:
        child.head = preposition
    gerund.head, gerund.dep_, gerund.pos_ = preposition, "advcl", "VERB"
    noun.head, noun.dep_ = gerund, "dobj"


def _is_auxiliary_of_noun(token: Token, before: Token) -> bool:
    """Detects "the bird has beak" with "has" read as the auxiliary of "beak"."""
    is_bare = before.dep_ == "aux" and before.head == token and token.dep_ == "ROOT" and token.tag_ in ("NN", "NNS")
    return is_bare and before.lower_ in ("has", "have", "had")


def _make_main_verb_of_possession(noun: Token, verb: Token) -> None:
    for child in [child for child in noun.children if child.i < verb.i]:
        child.head = verb
    verb.head = verb
    noun.head, noun.dep_ = verb, "dobj"
    verb.dep_, verb.pos_ = "ROOT", "VERB"


def _fronted_object(subject: Token) -> Token | None:
    """Returns the stool in "stool man is sitting on", read as a modifier of "man"."""
    verb, last = subject.head, subject.doc[-1]
    if last.pos_ == "PUNCT" and last.i > 0:
        last = last.nbor(-1)
    is_stranded = last.lower_ in PLACES and last.i == verb.i + 1 and last.head == verb
    if not is_stranded or [child.dep_ for child in verb.lefts if child.dep_ != "aux"] != ["nsubj"]:
        return None
    return next((child for child in subject.lefts if child.pos_ == "NOUN" and child.dep_ in _MODIFIERS), None)


def _make_fronted(noun: Token, subject: Token) -> None:
    for child in [child for child in subject.lefts if child.i < noun.i]:
        child.head = noun
    noun.head, noun.dep_ = subject.head, "nsubj"


def _is_side_by_side(side: Token) -> bool:
    """Detects "side by side", which names no side, unless nothing is left that it describes."""
    phrase = side.doc[side.i : side.i + 3]
    if phrase.text.lower() != "side by side" or any(word.is_ancestor(side) for word in phrase[1:]):
        return False
    return side.head != side or _is_behind_its_noun(side)


def _is_behind_its_noun(side: Token) -> bool:
    return side.i > 0 and side.nbor(-1).head == side and side.nbor(-1).pos_ in ("NOUN", "PROPN")


def _make_adverb(side: Token) -> None:
    by, last = side.nbor(), side.nbor(2)
    if _is_behind_its_noun(side):
        _take_place(side.nbor(-1), side)
    for child in [child for word in (side, by, last) for child in word.children if child.i > last.i]:
        child.head = side.head
    by.head, last.head = side, by
    side.dep_, by.dep_, last.dep_ = "advmod", "prep", "pobj"
    side.pos_ = last.pos_ = "ADV"


def _is_hidden_verb(token: Token, before: Token) -> bool:
    """Detects "a bus passes a church" with "passes" read as a plural noun, which can't follow "a"."""
    if token.tag_ not in ("NNS", "NNPS") or before.head != token or before.dep_ not in _MODIFIERS | {"nsubj"}:
        return False
    return token.dep_ != "pobj" and _is_one(before) and bool(known_lemmas(token.lower_, "VERB"))


def _is_one(noun: Token) -> bool:
    """Whether the noun's phrase opens with "a", so that it is no part of a plural; "a few" opens plurals."""
    opening = noun
    while opening.i > 0 and opening.pos_ in ("NOUN", "PROPN", "ADJ"):
        opening = opening.nbor(-1)
    return opening.lower_ in ("a", "an") and opening.nbor().lower_ not in SEVERAL


def _make_verb(verb: Token, noun: Token) -> None:
    premodifiers = [child for child in verb.lefts if child != noun]
    head = verb.head
    if _is_inner(verb):
        premodifiers += [child for child in head.lefts if child.i < noun.i]
        verb.dep_ = head.dep_
        verb.head = verb if head.head == head else head.head
        head.head, head.dep_ = verb, "dobj"
    verb.pos_, verb.tag_ = "VERB", "VBZ"
    noun.dep_, noun.pos_ = "nsubj", "NOUN"
    for child in premodifiers:
        child.head = noun


def _is_verb_behind_object(token: Token, before: Token) -> bool:
    """Detects "a truck filled with boxes drives", "a man on a bike talks" read as box drives, bike talks."""
    if token.dep_ not in ("pobj", "dobj") or before.head != token or before.dep_ not in _MODIFIERS:
        return False
    subject = _described_by(token)
    is_bare = before.tag_ == "NNS" and before.lower_ not in _PLURAL_MODIFIERS
    return (
        (token.tag_ == "VBZ" or (token.tag_ == "NNS" and (is_bare or _is_one(before))))
        and subject.pos_ in ("NOUN", "PROPN")
        and subject.dep_ == "ROOT"
        and (token.head.head.tag_ == "VBN" or noun_lemma(subject.lower_) in ANIMATE)
        and bool(known_lemmas(token.lower_, "VERB"))
    )


def _described_by(object_: Token) -> Token:
    """Returns what a phrase or participle with the object describes: the man in "on a bike", "riding a bike"."""
    head = object_.head.head if object_.dep_ == "pobj" else object_.head
    return head.head if head.dep_ == "acl" else head


def _make_main_verb(verb: Token, noun: Token) -> None:
    link, subject, label = verb.head, _described_by(verb), verb.dep_
    for child in [child for child in verb.lefts if child != noun]:
        child.head = noun
    later = [child for holder in (link, link.head, subject) for child in holder.rights if child.i > verb.i]
    verb.head = verb
    subject.head, noun.head = verb, link
    for child in later:
        child.head = verb
    verb.dep_, subject.dep_, noun.dep_ = "ROOT", "nsubj", label
    verb.pos_, verb.tag_, noun.pos_ = "VERB", "VBZ", "NOUN"


def _is_hidden_subject(noun: Token, verb: Token) -> bool:
    """Detects "a kitten plays" with "kitten" read as a modifier of the verb."""
    if noun.pos_ != "NOUN" or noun.dep_ not in _MODIFIERS or noun.head != verb or verb.tag_ != "VBZ":
        return False
    return verb.pos_ == "VERB" and not any(child.dep_ in ("nsubj", "nsubjpass", "expl") for child in verb.children)


def _subject_of_sport(gerund: Token) -> Token | None:
    """Returns the man in "a man kite surfing", read as a man kite that surfs."""
    before = gerund.doc[: gerund.i]
    length = next((n for n in (2, 1) if before[-n:].text in _SPORTS and len(before) > n), 0)
    person = before[-length - 1] if length and gerund.tag_ == "VBG" else None
    return person if person is not None and noun_lemma(person.lower_) in PEOPLE else None


def _make_subject_of_sport(person: Token, gerund: Token) -> None:
    kind = gerund.nbor(-1)
    _take_place(person, kind)
    if gerund.head == kind:
        gerund.head = person
    kind.head, kind.dep_ = gerund, "compound"


def _is_described_in_place(token: Token, before: Token) -> bool:
    """Detects "a bedroom with a television mounted on the wall" read as a bedroom that is mounted."""
    subject = next((child for child in token.lefts if child.dep_ in ("nsubj", "nsubjpass")), None)
    is_place = subject is not None and noun_lemma(subject.lower_) in LOCATIONS and _is_with(before, subject)
    return is_place and token.tag_ == "VBN" and not any(child.pos_ == "AUX" for child in token.lefts)


def _make_description(verb: Token, noun: Token) -> None:
    place = next(child for child in verb.lefts if child.dep_ in ("nsubj", "nsubjpass"))
    place.head = place if verb.head == verb else verb.head
    place.dep_, verb.dep_ = verb.dep_, "acl"
    verb.head = noun


def _is_first_of_list(token: Token, after: Token) -> bool:
    """Detects "a stove, oven, and coffee maker" read as a stove maker, "a couch and coffee table" as a couch table."""
    if token.pos_ != "NOUN" or not _is_inner(token) or known_lemmas(token.lower_, "ADJ") or token.lower_ in MATERIALS:
        return False
    last = token.head
    is_name = token.lower_ in _NAMES and last.doc[last.i - 1 : last.i + 1].text in _NAMES
    return after.lower_ == "," or (after.lower_ == "and" and last.i > after.i + 1 and is_name)


def _is_split_list(token: Token) -> bool:
    """Detects "a fork, a knife and a spoon" read as a fork that is a knife and a spoon."""
    if token.dep_ != "appos" or token.pos_ != "NOUN" or token.head.i > token.i:
        return False
    return {"cc", "conj"} <= {child.dep_ for child in token.rights}


def _is_hidden_object(token: Token) -> bool:
    """Detects "going down a slope" with "a slope" read as the verb's adverbial or object, not as that of "down"."""
    if token.dep_ not in ("npadvmod", "dobj") or token.pos_ != "NOUN" or token.left_edge.i == 0:
        return False
    preposition = token.left_edge.nbor(-1)
    labels = ("prep", "prt") if token.dep_ == "npadvmod" else ("prep",)
    return preposition.dep_ in labels and preposition.head == token.head and not list(preposition.children)


def _is_split_name(token: Token, before: Token) -> bool:
    """Detects "a fire hydrant" with "fire" read as the head."""
    if f"{before.lower_} {token.lower_}" not in _NAMES:
        return False
    if token.pos_ in ("NOUN", "PROPN"):
        return not _is_inner(token) and not token.is_ancestor(before)
    return token.head == before or not token.is_ancestor(before) or token.dep_ == "ROOT"


def _is_split_compound(token: Token, before: Token) -> bool:
    """Detects "standing next to a toilet lid" with "lid" read as the sentence's root or as another name."""
    is_last = token.i + 1 == len(token.doc) or token.nbor().pos_ == "PUNCT"
    is_governed = before.dep_ == "pobj" and before.tag_ == "NN" and bool(list(before.lefts))
    return is_last and is_governed and token.dep_ in ("ROOT", "appos") and token.tag_ in ("NN", "NNS", "VB")


def _make_head(token: Token, before: Token) -> None:
    if token.is_ancestor(before) and before.head != token:
        root = next(child for child in token.children if child.is_ancestor(before))
        for child in list(token.children):
            child.head = root
        root.dep_ = "ROOT"
    _take_place(token, before)
    token.tag_ = "NN"
    before.dep_ = "compound"
    for child in list(before.rights):
        child.head = token


def _take_place(noun: Token, former: Token) -> None:
    """Moves the noun to the tree position of `former`, its wrong neighbour, with everything before it."""
    before = [child for child in former.lefts if child != noun and child.i < noun.i]
    label, head = former.dep_, former.head
    noun.head = noun if head == former else head
    noun.dep_, noun.pos_ = label, "NOUN"
    former.head = noun
    for child in before:
        child.head = noun


def _is_place_of_it(token: Token, before: Token) -> bool:
    """Detects "a post with a clock on it" read as a post on it."""
    if token.dep_ != "prep" or not _is_with(before, token.head):
        return False
    # "On the back of it".
    places = [child for child in token.subtree if child.tag_ == "PRP"]
    return any(place.head == token or place.head.head.lower_ in PART_NOUNS for place in places)


def _is_with(noun: Token, holder: Token) -> bool:
    """Whether a thing or person is said to be "with" the noun, or with others and it."""
    while noun.dep_ == "conj" and noun.head != noun:
        noun = noun.head
    return noun.dep_ == "pobj" and noun.head.lower_ == "with" and noun.head.head == holder


def _is_place_of_part(token: Token, before: Token) -> bool:
    """Detects "lying with her hand on a clock" read as lying on a clock."""
    is_place = token.dep_ == "prep" and token.lower_ in PLACES and token.head.pos_ == "VERB"
    return is_place and noun_lemma(before.lower_) in BODY_PARTS and _is_with(before, token.head)


def _is_about_it(token: Token, before: Token) -> bool:
    """Detects "pushing a cart with a dog in it" read as pushing with a dog."""
    if token.lower_ != "with" or token.dep_ != "prep" or token.head.pos_ != "VERB" or token.is_ancestor(before):
        return False
    is_person = any(noun_lemma(word.lower_) in PEOPLE for word in token.doc[: token.head.i])
    is_it = before.dep_ == "dobj" or (before.dep_ == "pobj" and is_person)
    return is_it and any(word.lower_ == "it" for word in token.subtree)


def _is_tool_of_verb(token: Token) -> bool:
    """Detects "hits a ball with a bat" read as a ball that has a bat."""
    if token.lower_ != "with" or token.dep_ != "prep" or token.head.dep_ != "dobj" or token.head.head.i > token.i:
        return False
    is_kept = verb_lemma(token.head.head.lower_) in _KEEPING
    return not is_kept and any(child.dep_ == "pobj" and noun_lemma(child.lower_) in TOOLS for child in token.rights)


def _is_thing_in_ing(token: Token, before: Token) -> bool:
    """Detects "a cake with white frosting" with "frosting" read as a verb."""
    is_object = token.tag_ == "VBG" and token.dep_ in ("pobj", "dobj") and before.pos_ in ("ADJ", "DET")
    return is_object and all(child.dep_ == "prep" for child in token.rights)


def _is_pronoun_one(token: Token, before: Token) -> bool:
    """Detects "a red car next to a blue one"."""
    return token.lower_ in ("one", "ones") and token.pos_ != "NOUN" and before.pos_ == "ADJ"


def _is_split_tool(gerund: Token, noun: Token) -> bool:
    """Detects "pizza on cutting board" read as on cutting it: nothing is on an activity."""
    is_inner = gerund.dep_ == "pcomp" and gerund.head == gerund.nbor(-1) and gerund.head.lower_ in PLACES - {"by"}
    return is_inner and gerund.tag_ == "VBG" and noun.dep_ == "dobj" and noun.head == gerund and noun.tag_ == "NN"


def _is_last_noun(token: Token, before: Token) -> bool:
    """Detects the last word of "trees next to sidewalk", "the back of a railing" read as no noun."""
    if token.pos_ not in ("VERB", "AUX", "ADJ", "ADV", "X") or token.tag_ in ("VBN", "VBD"):
        return False
    if token.lower_ in COLOURS | FUNCTION_WORDS | PART_NOUNS or token.lower_ == "other":
        return False
    if token.i + 1 < len(token.doc) and token.nbor().pos_ != "PUNCT":
        return False
    is_after_to = before.lower_ == "to" and before.i > 0 and before.nbor(-1).lower_ in _BEFORE_TO
    is_governed = before.pos_ in ("DET", "ADP", "SCONJ") or before.lower_ in _OWNERS or is_after_to
    return (is_governed or before.pos_ == "ADJ") and bool(known_lemmas(token.lower_, "NOUN"))


def _is_hidden_noun(token: Token, before: Token) -> bool:
    """Detects "a suit and tie" with "tie" read as a verb, "riding skateboard" with the noun read as an adverb."""
    if _is_only_noun(token) and before.pos_ in ("DET", "ADJ", "NOUN", "PROPN", "CCONJ"):
        return True
    if token.dep_ == "conj" and token.tag_ == "VB" and token.head.pos_ == "NOUN" and before.dep_ == "cc":
        return bool(known_lemmas(token.lower_, "NOUN"))
    if token.dep_ == "advmod" and token.head == before and before.pos_ == "VERB":
        return token.lower_ in _ALSO_VERBS
    if token.pos_ not in ("VERB", "AUX") or token.tag_ in ("VBG", "VBN", "VBD"):
        return False
    if noun_lemma(token.lower_) not in _CATEGORY_HEADS | (ANIMATE - PEOPLE):
        return False
    is_inner_noun = before.pos_ in ("NOUN", "PROPN") and noun_lemma(before.lower_) not in PEOPLE
    return is_inner_noun or before.pos_ in ("DET", "ADJ", "CCONJ")


def _is_only_noun(token: Token) -> bool:
    """Whether the word is read as another part of speech than the only one that it has in the dictionary, a noun."""
    if token.pos_ not in ("VERB", "ADJ", "ADV") or token.tag_ == "VBG" or token.lower_ in ("other", "all"):
        return False
    others = any(known_lemmas(token.lower_, part) for part in ("VERB", "ADJ", "ADV"))
    return not others and bool(known_lemmas(token.lower_, "NOUN"))


def _is_hidden_name(token: Token, before: Token) -> bool:
    """Detects "a kitten", "a red oven" with the noun read as an adjective."""
    is_listed = before.lower_ in (",", "and") and token.dep_ == "conj" and token.head.pos_ == "NOUN"
    if token.pos_ != "ADJ" or not (is_listed or before.pos_ in ("DET", "ADJ")) or token.lower_ == "orange":
        return False
    is_last = token.i + 1 == len(token.doc) or token.nbor().pos_ not in ("NOUN", "PROPN", "ADJ")
    if token.dep_ == "ROOT" and known_lemmas(token.lower_, "NOUN"):
        return is_last
    return is_last and noun_lemma(token.lower_) in ANIMATE | _CATEGORY_HEADS | _ALSO_VERBS


def _make_noun(token: Token) -> None:
    token.pos_, token.tag_ = "NOUN", "NN"
    if token.dep_ == "amod" and token.head.pos_ == "VERB" and not _is_hidden_gerund(token.head, token):
        token.dep_ = "nsubj"
    elif token.dep_ == "advmod":
        token.dep_ = "dobj"
    for child in token.children:
        if child.i == token.i - 1 and child.dep_ == "nsubj":
            child.dep_ = "compound"
        elif child.i > token.i and child.tag_ == "VBG":
            child.dep_ = "acl"


_JOINTS = words("and while but")
_PREMODIFIER_TAGS = words("DET ADJ NOUN PROPN NUM")
# After these, joined nouns stay together: "with a cup and a book on it", "of a man and a woman sitting".
_BINDING = words("with of between and or to from for as")
PLACES = words("on in at near next under behind beside above below beneath underneath over inside atop by against")
"""Prepositions of place."""
_STATES = words("seated parked perched dressed")


def separate_clauses(doc: Doc) -> None:
    """Changes the tree so that a noun after a conjunction that opens its own clause becomes that clause's subject."""
    for token in doc[1:-1]:
        if token.pos_ not in ("NOUN", "PROPN") or doc[token.i + 1].pos_ in ("NOUN", "PROPN"):
            continue
        joint = _phrase_start(token) - 1
        if joint < 2 or doc[joint].lower_ not in _JOINTS or doc[joint - 1].pos_ == doc[joint + 1].pos_ == "ADJ":
            continue
        if doc[joint].lower_ == "and" and _is_second_subject(token, doc[token.i + 1]):
            token.head, token.dep_ = doc[joint - 1], "conj"
            continue
        relation = _last_relation(doc, joint, including_binding=doc[joint].lower_ != "and")
        if relation is not None:
            _separate(token, doc[token.i + 1], relation)


def _phrase_start(noun: Token) -> int:
    start = noun.i
    while start > 0 and noun.doc[start - 1].pos_ in _PREMODIFIER_TAGS:
        start -= 1
    return start


def _last_relation(doc: Doc, end: int, including_binding: bool) -> Token | None:
    """Returns the last verb or preposition before `end`, unless it binds together what follows it."""
    for position in range(end - 1, 0, -1):
        token = doc[position]
        if token.pos_ in ("VERB", "ADP", "SCONJ") or token.lower_ in ("next", "to"):
            if token.lower_ == "of" and position > 1 and doc[position - 1].lower_ in ("top", "front", "back", "side"):
                return doc[position - 2] if position > 2 else token
            if token.lower_ == "to" and doc[position - 1].lower_ == "next":
                return doc[position - 1]
            return token if including_binding or token.lower_ not in _BINDING else None
        if token.pos_ == "AUX":
            return token
    return None


def _is_second_subject(noun: Token, following: Token) -> bool:
    """Detects "a man wearing a shirt and tie rides" read as tie rides, though the man has no other verb."""
    held = noun.doc[_phrase_start(noun) - 2]
    if not _is_finite(following, noun) or held.pos_ not in ("NOUN", "PROPN") or noun.is_ancestor(held):
        return False
    verb = _verb_of(following)
    subjects = (child for child in verb.lefts if child.dep_ in ("nsubj", "nsubjpass"))
    is_able = noun_lemma(noun.lower_) not in GARMENTS and is_done_by_things(verb)
    return not is_able and is_incapable(noun, verb) and any(subject.i < held.i for subject in subjects)


def _verb_of(word: Token) -> Token:
    return word.head if word.dep_ in ("aux", "auxpass") else word


def _separate(noun: Token, following: Token, relation: Token) -> None:
    if _is_finite(following, noun):
        _attach(noun, _verb_of(following), "nsubj")
    elif _is_participle(following, noun):
        _detach(noun, following, "acl")
    elif following.lower_ in PLACES and relation.pos_ not in ("VERB", "AUX"):
        _detach(noun, following, "advmod" if following.lower_ == "next" else "prep")


def _is_finite(verb: Token, noun: Token) -> bool:
    if verb.tag_ == "VBD" and verb.i + 1 < len(verb.doc) and verb.nbor().lower_ == "by":
        return False
    is_plural = verb.lower_ in ("are", "were") or verb.tag_ == "VBP"
    return verb.tag_ in ("VBZ", "VBP", "VBD", "MD") and not (is_plural and noun.tag_ in ("NN", "NNP"))


def _is_participle(verb: Token, noun: Token) -> bool:
    if verb.tag_ in ("VBN", "VBD") and verb.i + 1 < len(verb.doc) and verb.nbor().lower_ == "by":
        return True
    return noun_lemma(noun.lower_) in ANIMATE and (verb.tag_ == "VBG" or verb.lower_ in _STATES)


def _attach(noun: Token, verb: Token, label: str) -> None:
    if noun.is_ancestor(verb):
        return
    if not verb.is_ancestor(noun) or noun.head != verb:
        noun.head = verb
    noun.dep_ = label


def _detach(noun: Token, modifier: Token, label: str) -> None:
    """Detaches the noun from the preceding clause and attaches the modifier to it."""
    if modifier.is_ancestor(noun):
        return
    if modifier.head != noun:
        modifier.head = noun
    modifier.dep_ = label
    if noun.dep_ == "conj":
        noun.dep_ = "parataxis"
