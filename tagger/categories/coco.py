"""Words that name COCO's 80 categories in captions, and phrases that look like one but name another thing.

All entries have the form that `nouns.phrase_lemma` returns: lower case, singular head noun last.
"""

from tagger.english.words import phrases, words

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": phrases(
        "tween, kayaker, lumberjack, kiteboarder, parasailer, paraglider, skiier, wakeboarder, bodyboarder, paramedic, "
        "emt, santa, santa claus, princess, queen, king, knight, youngster, dj, artist, painter, judge, sheriff, "
        "marine, twin, sibling, grandson, granddaughter, gamer, hipster, backpacker, matador, rancher, goaltender, "
        "baserunner, baseman, lineman, cowgirl, trainer, bystander, barista, windsurfer, man, woman, boy, girl, child, "
        "kid, baby, toddler, infant, lady, guy, gentleman, fellow, dude, male, female, human, adult, teen, teenager, "
        "youth, couple, family, crowd, audience, spectator, pedestrian, passenger, driver, pilot, rider, jockey, "
        "cowboy, cyclist, bicyclist, biker, motorcyclist, surfer, skier, snowboarder, skateboarder, boarder, skater, "
        "equestrian, swimmer, diver, runner, jogger, climber, hiker, athlete, owner, player, teammate, batter, "
        "pitcher, catcher, umpire, referee, fielder, goalie, coach, golfer, boxer, policeman, policewoman, cop, "
        "officer, soldier, guard, fireman, firefighter, worker, workman, employee, businessman, businesswoman, waiter, "
        "waitress, chef, cook, baker, bartender, barber, vendor, farmer, fisherman, herder, shepherd, tourist, "
        "visitor, shopper, customer, student, teacher, doctor, nurse, dentist, patient, photographer, performer, "
        "musician, guitarist, singer, dancer, clown, bride, groom, mother, mom, father, dad, parent, son, daughter, "
        "brother, sister, friend, husband, wife, grandmother, grandfather, aunt, uncle, niece, nephew, bridesmaid, "
        "neighbor, neighbour, somebody, someone, individual, clerk, courier, mailman, postman, carpenter, gardener, "
        "mechanic, butcher, sailor, lifeguard, goalkeeper, pianist, drummer, violinist, priest, monk, nun, scientist, "
        "lawyer, marching band, orchestra, choir, crew, member, squad, mob, gang, gal, chap, kiddo, granny, groomsman, "
        "commuter, guest, client, diner, host, conductor, mascot, ballboy, batboy, bowler, racer, chauffeur, cabbie, "
        "trucker, angler, hunter, dog walker, zookeeper, groomer, beachgoer, snorkeler, usher, pirate, redhead, "
        "baseball fan, football fan, soccer fan, tennis fan"
    ),
    "bicycle": phrases(
        "bmx bike, road bike, tandem bike, bmx, beach cruiser, tandem, bike, cycle, mountain bike, tricycle"
    ),
    "car": phrases(
        "hearse, automobile, sedan, suv, taxi, cab, jeep, van, minivan, convertible, auto, audi, bmw, buick, cadillac, "
        "camaro, chevrolet, chevy, corvette, ferrari, honda, lexus, mercedes, mini cooper, pontiac, porsche, prius, "
        "subaru, tesla, toyota, volkswagen, volkswagen beetle, volvo"
    ),
    "motorcycle": phrases(
        "ducati, harley davidson, chopper, motocross bike, minibike, motorbike, motor bike, dirt bike, scooter, motor "
        "scooter, vespa, moped, bike, motor cycle, harley"
    ),
    "airplane": phrases(
        "plane, aeroplane, aircraft, jet, airliner, jetliner, biplane, fighter jet, cessna, boeing, airbus"
    ),
    "bus": phrases("shuttle bus, omnibus, minibus, coach bus, school bus, double decker"),
    "train": phrases(
        "passenger car, commuter train, train car, train engine, subway car, railway car, caboose, monorail, steam "
        "engine, locomotive, tram, subway, streetcar, trolley, metro, railcar"
    ),
    "truck": phrases(
        "big rig, flatbed, eighteen wheeler, 18 wheeler, tractor trailer, lorry, pickup, pick-up, trailer, van, fire "
        "engine, semi, pickup truck"
    ),
    "boat": phrases(
        "paddleboat, riverboat, airboat, inflatable boat, water taxi, scull, cruise liner, dinghy, skiff, watercraft, "
        "tug, schooner, trawler, ship, sailboat, canoe, kayak, ferry, yacht, rowboat, speedboat, raft, gondola, vessel"
    ),
    "traffic light": phrases("stop light, traffic signal, signal light"),
    "fire hydrant": phrases("hydrant"),
    "stop sign": (),
    "parking meter": phrases("meter"),
    "bench": phrases("park bench, pew"),
    "bird": phrases(
        "cardinal, bluejay, loon, quail, partridge, grouse, canary, baby bird, emu, fowl, seagull, gull, pigeon, duck, "
        "goose, swan, parrot, owl, eagle, crow, sparrow, chicken, rooster, hen, pelican, flamingo, peacock, ostrich, "
        "penguin, hawk, heron, hummingbird, duckling, robin"
    ),
    "cat": phrases(
        "maine coon, maine coon cat, persian, housecat, manx, siamese, calico, persian cat, kitten, kitty, feline"
    ),
    "dog": phrases(
        "great pyrenees, australian shepherd, yorkie, westie, sheltie, maltese, havanese, bichon frise, akita, shiba, "
        "heeler, mongrel, goldendoodle, cockapoo, puggle, bullmastiff, cane corso, lab, labradoodle, shiba inu, jack "
        "russell, pitbull, doggie, pooch, mastiff, shih tzu, pit bull, puppy, pup, doggy, canine, poodle, dalmatian, "
        "labrador, terrier, bulldog, pug, chihuahua, corgi, german shepherd, golden retriever, retriever"
    ),
    "horse": phrases("thoroughbred, steed, clydesdale, gelding, pony, foal, mare, stallion, colt, race horse"),
    "sheep": phrases("mountain sheep, bighorn sheep, lamb, ram, ewe"),
    "cow": phrases(
        "angus, bovine, holstein, jersey cow, highland cow, longhorn, water buffalo, cattle, bull, calf, ox, bison, "
        "buffalo, heifer, steer"
    ),
    "elephant": phrases("baby elephant, pachyderm"),
    "bear": phrases("polar bear, grizzly, bear cub, panda"),
    "zebra": (),
    "giraffe": (),
    "backpack": phrases("school bag, daypack, haversack, rucksack, knapsack, back pack, bag, book bag"),
    "umbrella": phrases("parasol"),
    "handbag": phrases(
        "clutch, clutch bag, satchel, messenger bag, pocketbook, purse, bag, hand bag, tote, shoulder bag, tote bag"
    ),
    "tie": phrases("cravat, bow tie, neck tie"),
    "suitcase": phrases(
        "luggage case, duffel bag, duffle bag, travel bag, carry on bag, luggage bag, luggage, briefcase, suit case, "
        "baggage, bag, carry-on"
    ),
    "frisbee": phrases("frisbee disc, flying disc, disc, disk, frisby"),
    "skis": phrases("snow ski, water ski"),
    "snowboard": phrases("snow board, board"),
    "sports ball": phrases(
        "bowling ball, croquet ball, lacrosse ball, medicine ball, wiffle ball, kick ball, softball, rugby ball, golf "
        "ball, cricket ball, kickball, dodgeball, basket ball, base ball, foot ball, soft ball, toy ball, exercise "
        "ball, ball, soccer ball, football, basketball, baseball, volleyball, tennis ball, beach ball, soccerball"
    ),
    "kite": (),
    "baseball bat": phrases("bat, ball bat, little league bat, softball bat, wiffle ball bat"),
    "baseball glove": phrases(
        "catcher's mitt, catchers mitt, catcher's glove, softball glove, ball glove, fielder's glove, mitt, baseball "
        "mitt, catcher mitt, glove"
    ),
    "skateboard": phrases("skating board, skate board, board, longboard"),
    "surfboard": phrases(
        "surfing board, body board, bodyboard, surf board, board, boogie board, wakeboard, paddle board, paddleboard"
    ),
    "tennis racket": phrases("racket, racquet, tennis racquet, tennis paddle"),
    "bottle": phrases("wine bottle, water bottle, beer bottle, spray bottle, shampoo bottle"),
    "wine glass": phrases("champagne flute, martini glass, cocktail glass, stemware, glass, champagne glass, goblet"),
    "cup": phrases(
        "measuring cup, beer glass, drinking glass, juice glass, water glass, pint glass, stein, tankard, beer mug, "
        "mug, glass, coffee cup, tea cup, coffee mug, tumbler"
    ),
    "fork": phrases("salad fork"),
    "knife": phrases("butter knife"),
    "spoon": phrases("tablespoon, ladle, teaspoon"),
    "bowl": phrases("sugar bowl, salad bowl, soup bowl, mixing bowl"),
    "banana": phrases("plantain"),
    "apple": (),
    "sandwich": phrases(
        "blt, hoagie, gyro, po boy, grilled cheese, reuben, submarine sandwich, burger, hamburger, sub, cheeseburger, "
        "panini, cheesesteak, slider, toastie"
    ),
    "orange": phrases("tangerine, mandarin, clementine"),
    "broccoli": phrases("brocolli, brocoli, broccoli head, broccoli crown"),
    "carrot": phrases("carrot stick"),
    "hot dog": phrases("hot-dog, frankfurter, wiener, weiner, chili dog, chilli dog"),
    "pizza": phrases("pizza pie"),
    "donut": phrases("donut hole, doughnut hole, bear claw, cruller, beignet, doughnut"),
    "cake": phrases("shortcake, fruitcake, bundt, torte, cupcake, birthday cake, cheesecake, wedding cake"),
    "chair": phrases(
        "barstool, lounger, lawnchair, throne, armchair, arm chair, stool, recliner, rocking chair, lawn chair"
    ),
    "couch": phrases("chesterfield, davenport, sectional, futon, sofa, loveseat, love seat, settee"),
    "potted plant": phrases(
        "bonsai tree, hanging plant, spider plant, bonsai, plant, house plant, flower pot, pot plant"
    ),
    "bed": phrases("baby bed, bassinet, four poster, bunk, bunk bed, crib, cot, mattress"),
    "dining table": phrases("table, dinner table, kitchen table"),
    "toilet": phrases("latrine, loo, porta potty, urinal, toilet bowl, commode, toilet seat"),
    "tv": phrases(
        "lcd monitor, flat screen monitor, television screen, telly, flat-screen, hdtv, lcd, tv monitor, television, "
        "monitor, tv screen, television set, tv set, computer monitor, computer screen, flat screen, computer"
    ),
    "laptop": phrases(
        "lap top, chromebook, netbook, laptop computer, computer, notebook computer, macbook, macbook pro"
    ),
    "mouse": phrases("computer mouse"),
    "remote": phrases("clicker, nunchuck, remote control, controller, game controller, wii remote, wiimote, tv remote"),
    "keyboard": phrases("computer keyboard"),
    "cell phone": phrases(
        "blackberry, handset, smart-phone, phone, cellphone, mobile phone, mobile, smartphone, smart phone, telephone, "
        "iphone"
    ),
    "microwave": phrases("microwave oven"),
    "oven": phrases("stove, gas stove, cooker, stove top, toaster oven"),
    "toaster": (),
    "sink": phrases("basin, wash basin"),
    "refrigerator": phrases("icebox, fridge, freezer, refridgerator"),
    "book": phrases("comic book, hardcover, bible, dictionary, volume, paperback, hardback, novel, textbook, notebook"),
    "clock": phrases("cuckoo clock, clock face, alarm clock"),
    "vase": phrases("urn"),
    "scissors": phrases("shears, scissor"),
    "teddy bear": phrases("teddy, stuffed bear, toy bear, stuffed animal"),
    "hair drier": phrases("hair dryer, blow dryer, blow drier"),
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
