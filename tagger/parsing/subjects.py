"""Finds who performs a verb: its own subject, the noun that its clause modifies, or the governing verb's subject."""

from spacy.tokens import Token

from tagger.english.lexicon import GARMENTS
from tagger.english.nouns import noun_lemma
from tagger.english.predicates import canonical
from tagger.english.words import words
from tagger.parsing.mentions import Mentions

# Performed by people and animals only: in "a boy in a shirt carrying a bag", the shirt does not carry.
_AGENTIVE = words(
    "hold wear carry ride look eat read use watch drink talk feed play throw catch hit swing pet brush cut walk "
    "type text push pull kick lead hug kiss smile point reach lick chew bite chase sniff fly touch grab cook "
    "prepare take pose work write speak smoke sell shop dance"
)
_CLAUSES = ("acl", "relcl")
_CHAINED = ("advcl", "xcomp", "ccomp", "conj", "pcomp", "dep")


class Subjects:
    """Finds the subjects of the verbs of one parsed caption."""

    def __init__(self, mentions: Mentions) -> None:
        self._mentions = mentions
        self._by_verb: dict[int, list[Token]] = {}

    def of(self, verb: Token) -> list[Token]:
        """Returns the nouns that perform the verb (for a passive: that undergo it)."""
        if verb.i not in self._by_verb:
            # In broken sentences, verbs may wait for each other's subjects: they have none.
            self._by_verb[verb.i] = []
            self._by_verb[verb.i] = self._found(verb)
        return self._by_verb[verb.i]

    def capable_subject(self, noun: Token, verb: Token) -> Token:
        """Returns the noun or, if it can't perform the verb, the person or animal whose place or garment it is."""
        is_worn = noun_lemma(noun.lower_) in GARMENTS
        if verb.tag_ == "VBN" or not (is_worn or canonical(verb.lower_) in _AGENTIVE):
            return noun
        passed: set[int] = set()
        able = noun
        while able.i not in passed and not self._mentions.is_animate(able):
            passed.add(able.i)
            if able.dep_ not in ("pobj", "conj") or able.head.lower_ == "with":
                return noun
            able = able.head if able.dep_ == "conj" else able.head.head
            if able.pos_ in ("VERB", "AUX"):
                able = next(iter(self.of(able)[-1:]), able)
        return able if self._mentions.is_animate(able) else noun

    def antecedents(self, pronoun: Token) -> list[Token]:
        """Resolves a pronoun: it is the bench in "a bench with a cat sitting on it" and "a bench has a cat on it"."""
        for ancestor in pronoun.ancestors:
            if ancestor.dep_ == "prep" and ancestor.lower_ == "with":
                head = ancestor.head
                if self._mentions.is_noun(head):
                    return self._mentions.referents(head)
                if head.pos_ in ("VERB", "AUX"):
                    return self.of(head)
            elif canonical(ancestor.lower_) == "have" and ancestor.pos_ in ("VERB", "AUX"):
                return self.of(ancestor)
        return []

    def _found(self, verb: Token) -> list[Token]:
        # Of two subjects, the nearer one is the verb's own ("... while a cat looks at a cow").
        for child in [*reversed(list(verb.lefts)), *verb.rights]:
            if child.dep_ in ("nsubj", "nsubjpass"):
                if self._mentions.is_relative(child):
                    return self._clause_head(verb)
                return self._referents(child, verb)
            if child.dep_ == "expl":
                return [noun for attr in verb.children if attr.dep_ == "attr" for noun in self._referents(attr, verb)]
        if verb.dep_ in _CLAUSES:
            return self._clause_head(verb)
        if verb.dep_ in _CHAINED:
            return self._governing(verb.head, verb)
        return []

    def _governing(self, head: Token, verb: Token) -> list[Token]:
        if head.pos_ in ("VERB", "AUX"):
            return self.of(head)
        if self._mentions.is_noun(head) and head.i < verb.i:
            return self._modified(head, verb)
        if head.dep_ in ("acomp", "advmod", "prep", "prt"):
            return self._governing(head.head, verb)
        return []

    def _clause_head(self, verb: Token) -> list[Token]:
        head = verb.head
        if head.pos_ in ("VERB", "AUX"):
            return self.of(head)
        if not self._mentions.is_noun(head):
            return []
        return self._modified(self.capable_subject(head, verb), verb)

    def _modified(self, noun: Token, modifier: Token) -> list[Token]:
        members = self._mentions.modified(noun, modifier)
        return [referent for member in members for referent in self._mentions.referents(member)]

    def _referents(self, noun: Token, verb: Token) -> list[Token]:
        if not self._mentions.is_noun(noun):
            return self.antecedents(noun) if self._mentions.is_personal(noun) else []
        members = self._mentions.coordinated(noun)
        if noun.i < verb.i:
            members = [member for member in members if member.i < verb.i]
        return [referent for member in members for referent in self._mentions.referents(member)]
