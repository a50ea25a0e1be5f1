"""Words that name COCO's 80 categories in captions, and phrases that look like one but name another thing.

All entries have the form that `nouns.phrase_lemma` returns: lower case, singular head noun last.
"""

from tagger.english.words import phrases, words

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": phrases(
        "man, woman, boy, girl, child, kid, baby, toddler, infant, lady, guy, gentleman, fellow, dude, male, "
        "female, human, adult, teen, teenager, youth, couple, family, crowd, audience, spectator, pedestrian, "
        "passenger, driver, pilot, rider, jockey, cowboy, cyclist, bicyclist, biker, motorcyclist, surfer, "
        "skier, snowboarder, skateboarder, boarder, skater, equestrian, swimmer, diver, runner, jogger, climber, "
        "hiker, athlete, owner, "
        "player, teammate, batter, pitcher, catcher, umpire, referee, fielder, goalie, coach, golfer, boxer, "
        "policeman, policewoman, cop, officer, soldier, guard, fireman, firefighter, worker, workman, employee, "
        "businessman, businesswoman, waiter, waitress, chef, cook, baker, bartender, barber, vendor, farmer, "
        "fisherman, herder, shepherd, tourist, visitor, shopper, customer, student, teacher, doctor, nurse, "
        "dentist, patient, photographer, performer, musician, guitarist, singer, dancer, clown, bride, groom, "
        "mother, mom, father, dad, parent, son, daughter, brother, sister, friend, husband, wife, grandmother, "
        "grandfather, aunt, uncle, niece, nephew, bridesmaid, neighbor, neighbour, somebody, someone, individual, "
        "clerk, courier, mailman, postman, carpenter, gardener, mechanic, butcher, sailor, lifeguard, goalkeeper, "
        "pianist, drummer, violinist, priest, monk, nun, scientist, lawyer"
    ),
    "bicycle": phrases("bike, cycle, mountain bike, tricycle"),
    "car": phrases("automobile, sedan, suv, taxi, cab, jeep, van, minivan, convertible, auto"),
    "motorcycle": phrases(
        "motorbike, motor bike, dirt bike, scooter, motor scooter, vespa, moped, bike, motor cycle, harley"
    ),
    "airplane": phrases("plane, aeroplane, aircraft, jet, airliner, jetliner, biplane, fighter jet"),
    "bus": phrases("minibus, coach bus, school bus, double decker"),
    "train": phrases("locomotive, tram, subway, streetcar, trolley, metro, railcar"),
    "truck": phrases("lorry, pickup, pick-up, trailer, van, fire engine, semi, pickup truck"),
    "boat": phrases("ship, sailboat, canoe, kayak, ferry, yacht, rowboat, speedboat, raft, gondola, vessel"),
    "traffic light": phrases("stoplight, stop light, traffic signal, signal light"),
    "fire hydrant": phrases("hydrant"),
    "stop sign": phrases("stopsign"),
    "parking meter": phrases("meter, parkingmeter"),
    "bench": phrases("park bench, pew"),
    "bird": phrases(
        "seagull, gull, pigeon, duck, goose, swan, parrot, owl, eagle, crow, sparrow, chicken, rooster, hen, "
        "pelican, flamingo, peacock, ostrich, penguin, hawk, heron, hummingbird, duckling, robin"
    ),
    "cat": phrases("kitten, kitty, feline"),
    "dog": phrases(
        "puppy, pup, doggy, canine, poodle, dalmatian, labrador, terrier, bulldog, pug, chihuahua, corgi, german "
        "shepherd, golden retriever, retriever"
    ),
    "horse": phrases("pony, foal, mare, stallion, colt, race horse"),
    "sheep": phrases("lamb, ram, ewe"),
    "cow": phrases("cattle, bull, calf, ox, bison, buffalo, heifer, steer"),
    "elephant": phrases("baby elephant"),
    "bear": phrases("polar bear, grizzly, bear cub, panda"),
    "zebra": (),
    "giraffe": (),
    "backpack": phrases("rucksack, knapsack, back pack, bag, book bag"),
    "umbrella": phrases("parasol"),
    "handbag": phrases("purse, bag, hand bag, tote, shoulder bag, tote bag"),
    "tie": phrases("necktie, bow tie, bowtie, neck tie"),
    "suitcase": phrases("luggage, briefcase, suit case, baggage, bag, carry-on"),
    "frisbee": phrases("disc, disk, frisby"),
    "skis": (),
    "snowboard": phrases("snow board, board"),
    "sports ball": phrases(
        "ball, soccer ball, football, basketball, baseball, volleyball, tennis ball, beach ball, soccerball"
    ),
    "kite": (),
    "baseball bat": phrases("bat"),
    "baseball glove": phrases("mitt, baseball mitt, catcher mitt, glove"),
    "skateboard": phrases("skate board, board, longboard"),
    "surfboard": phrases("surf board, board, boogie board, wakeboard, paddle board, paddleboard"),
    "tennis racket": phrases("racket, racquet, tennis racquet, tennis paddle"),
    "bottle": phrases("wine bottle, water bottle, beer bottle"),
    "wine glass": phrases("wineglass, glass, champagne glass, goblet"),
    "cup": phrases("mug, glass, coffee cup, teacup, tea cup, coffee mug, tumbler"),
    "fork": (),
    "knife": phrases("butter knife"),
    "spoon": phrases("ladle, teaspoon"),
    "bowl": phrases("soup bowl, mixing bowl"),
    "banana": (),
    "apple": (),
    "sandwich": phrases("burger, hamburger, sub, cheeseburger, panini"),
    "orange": phrases("tangerine, mandarin, clementine"),
    "broccoli": (),
    "carrot": (),
    "hot dog": phrases("hotdog"),
    "pizza": phrases("pizza slice, pizza pie"),
    "donut": phrases("doughnut"),
    "cake": phrases("cupcake, birthday cake, cheesecake, wedding cake"),
    "chair": phrases("armchair, arm chair, stool, recliner, rocking chair, lawn chair"),
    "couch": phrases("sofa, loveseat, love seat, settee"),
    "potted plant": phrases("plant, houseplant, house plant, flower pot, pot plant"),
    "bed": phrases("bunk bed, crib, cot, mattress"),
    "dining table": phrases("table, dinner table, kitchen table"),
    "toilet": phrases("urinal, toilet bowl, commode, toilet seat"),
    "tv": phrases(
        "television, monitor, tv screen, television set, tv set, computer monitor, computer screen, flat screen, "
        "computer"
    ),
    "laptop": phrases("laptop computer, computer, notebook computer, macbook"),
    "mouse": phrases("computer mouse"),
    "remote": phrases("remote control, controller, game controller, wii remote, wiimote, tv remote"),
    "keyboard": phrases("computer keyboard"),
    "cell phone": phrases("phone, cellphone, mobile phone, mobile, smartphone, smart phone, telephone, iphone"),
    "microwave": phrases("microwave oven"),
    "oven": phrases("stove, cooker, stove top, toaster oven"),
    "toaster": (),
    "sink": phrases("washbasin, basin, wash basin"),
    "refrigerator": phrases("fridge, freezer, refridgerator"),
    "book": phrases("novel, textbook, notebook"),
    "clock": phrases("clock face, alarm clock"),
    "vase": (),
    "scissors": phrases("pair of scissors"),
    "teddy bear": phrases("teddy, stuffed bear, toy bear, stuffed animal"),
    "hair drier": phrases("hair dryer, hairdryer, blow dryer, blow drier"),
    "toothbrush": phrases("tooth brush"),
}

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")

PEOPLE = frozenset(("person", *SYNONYMS["person"]))

# Things that act by themselves: people and animals.
ANIMATE = PEOPLE.union(_ANIMALS, *(SYNONYMS[animal] for animal in _ANIMALS)) | words(
    "animal goat monkey lion tiger pig rabbit deer camel fox antelope"
)

# Other data sets' spellings of the names above.
ALIASES = {"dinning table": "dining table", "hair dryer": "hair drier", "television": "tv", "sofa": "couch"}

# Phrases whose first word changes what the noun names: the parser keeps it in the lemma ("hot dog").
LEXICAL_PHRASES = frozenset(
    phrases(
        "american football, cellular phone, cutting board, dining table, double decker, electric drill, flat screen, "
        "french fries, green bean, green onion, green vegetable, high heel, hot air balloon, hot dog, ice cream, "
        "mobile phone, parking meter, plastic bag, polar bear, potted plant, remote control, rocking chair, sleeping "
        "bag, smart phone, stuffed animal, stuffed bear, teddy bear, washing machine, wild bird"
    )
)
