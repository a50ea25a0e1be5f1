"""Word tables that captions are read with, and the compact notation for them."""

import re
from collections.abc import Mapping


def words(text: str) -> frozenset[str]:
    """Returns the set of blank-separated words in `text`."""
    return frozenset(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Returns the comma-separated phrases of `text`, in order."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def merged(variants: Mapping[str, str]) -> dict[str, str]:
    """Inverts {kept form: "variant, variant"}: maps each variant to the form that it is merged into."""
    return {variant: kept for kept, listed in variants.items() for variant in phrases(listed)}


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

DETERMINERS = words("a an the his her its their my your our some this that these those")
NUMBERS = {
    "a": 1, "an": 1, "one": 1, "another": 1, "two": 2, "both": 2, "three": 3, "four": 4, "five": 5, "six": 6,
    "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
SEVERAL = words("several many few multiple various numerous each every all some these those")
AUXILIARIES = words("am is are was were be been being")
PERFECT = words("has have had having")
ADVERBS = words(
    "directly immediately just partially partly slightly very really currently happily quietly also both "
    "carefully closely together still already almost nearly high"
)

# Words that open a predicate without being its verb. lemminflect would read some of them as verbs ("left", "near").
FUNCTION_WORDS = words(
    "about above across adjacent after against ahead along alongside among amongst and apart around as astride at "
    "atop away back before behind below beneath beside besides between beyond by close down during far for from "
    "full in inside into left like near nearby next no not of off on onto opposite or out outside over past right "
    "round side similar than through throughout to toward towards under underneath until up upon via with within "
    "without"
)


def tokens_of(text: str) -> list[str]:
    """Returns the words of `text` in lower case, without punctuation."""
    return _WORD.findall(text.lower())


GARMENTS = words(
    "shirt t-shirt tshirt tee jacket coat hat cap suit dress gown robe skirt blouse sweater sweatshirt hoodie vest "
    "jersey uniform outfit costume clothes clothing attire apparel gear pants jeans shorts trousers slacks leggings "
    "tights overalls wetsuit swimsuit bikini trunks underwear pajamas kimono apron tuxedo tie bowtie necktie scarf "
    "glove mitten sock shoe boot sandal sneaker heels slipper helmet headband bandana beanie visor hood glasses "
    "sunglasses goggles eyeglasses blazer cardigan tank-top cape poncho raincoat parka sari turban wig mask top"
)

CONTAINERS = words("bottle bowl glass box bag cup mug basket vase pot bucket jar pan can crate carton container tub")
CARRIERS = words("plate tray platter saucer")

TOOLS = words(
    "bat racket racquet paddle club stick mallet hammer axe knife fork spoon chopstick chopsticks scissors spatula "
    "tongs"
)
"""Instruments of verbs: in "hits a ball with a bat", the ball does not have the bat."""

BODY_PARTS = words(
    "head hair face eye ear nose mouth lip tooth chin cheek forehead beard mustache neck shoulder arm elbow wrist hand "
    "finger thumb chest back waist hip leg knee ankle foot toe tail paw hoof horn beak wing feather fur mane trunk tusk"
)

# Materials and looks are not part of a name: a "brick wall" is a wall and a "glass vase" is a vase.
MATERIALS = words(
    "wood wooden metal metallic steel iron brass copper silver gold tin aluminum chrome glass brick stone rock marble "
    "concrete cement granite ceramic porcelain clay plastic rubber leather cloth fabric cotton wool wicker bamboo "
    "straw dirt asphalt gravel denim lace velvet silk nylon foam styrofoam vinyl wrought"
)
COLOURS = words(
    "red orange yellow green blue purple violet pink brown tan beige black white gray grey silver gold golden maroon "
    "turquoise teal navy cream khaki crimson lavender"
)
# Adjectives that the small spaCy model reads as parts of a compound noun.
LOOKS = words(
    "adult young old big large small little tall short long high tiny huge giant striped plaid floral electrical "
    "electric rolling public commercial utility rural dark light bright baby male female wet dry open closed asian "
    "modern vintage antique decorative passenger double stuffed soft"
)
_APPEARANCE = MATERIALS | COLOURS | LOOKS

# Phrases that keep a word of appearance, because the whole phrase names another thing.
_FIXED = frozenset(
    phrases(
        "light bulb, light fixture, light pole, light post, light switch, wine glass, gold medal, rock wall, rubber "
        "duck, baby carriage, baby elephant, baby stroller, passenger train, double decker, high chair, high heel, "
        "straw hat, tin foil, light signal, glass door, white board, black board, cream cheese, dry erase"
    )
)


def names_more(phrase: str) -> bool:
    """Whether the first word of a noun phrase is part of the thing's name: "brick" in "brick wall" is not."""
    return phrase.partition(" ")[0] not in _APPEARANCE or phrase in _FIXED
