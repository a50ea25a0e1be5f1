"""What the categories of all datasets share: broader words with their kinds, and phrases of other things."""

from tagger.english.words import phrases, words

HYPERNYMS: dict[str, tuple[str, ...]] = {
    "animal": phrases(
        "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, deer, antelope, lion, monkey, rabbit, "
        "seal, pig, camel, donkey, yak, goose, duck, chicken, penguin, swan, parrot, pigeon, dolphin"
    ),
    "bird": phrases("duck, goose, chicken, penguin, swan, parrot, pigeon"),
    "pet": phrases("cat, dog, rabbit, parrot"),
    "vehicle": phrases(
        "car, bus, truck, suv, van, sports car, pickup truck, heavy truck, fire truck, ambulance, "
        "construction vehicle, race car"
    ),
    "truck": phrases("pickup truck, heavy truck, fire truck"),
    "car": phrases("suv, van, sports car, race car"),
    "boat": phrases("ship, sailboat"),
    "ball": phrases(
        "sports ball, soccer ball, tennis ball, baseball, basketball, volleyball, golf ball, american football, "
        "table tennis ball, billiard ball"
    ),
    "shoe": phrases("sneakers, leather shoe, boot, sandal, slipper, high heel, skating and skiing shoe"),
    "footwear": phrases("sneakers, leather shoe, boot, sandal, slipper, high heel, shoe"),
    "headwear": phrases("hat, helmet"),
    "jewelry": phrases("necklace, bracelet, ring"),
    "bag": phrases("handbag, backpack, suitcase, briefcase"),
    "fruit": phrases(
        "apple, banana, orange, grape, pear, peach, lemon, strawberry, watermelon, pineapple, mango, plum, cherry, "
        "kiwi fruit, coconut, pomegranate, papaya, grapefruit, avocado, durian, cantaloupe"
    ),
    "vegetable": phrases(
        "broccoli, carrot, tomato, potato, onion, cabbage, lettuce, cucumber, pepper, pumpkin, corn, garlic, "
        "eggplant, green bean, green onion, green vegetable, radish, asparagus, okra, mushroom, red cabbage"
    ),
    "veggie": phrases("broccoli, carrot, tomato, potato, onion, cabbage, lettuce, cucumber, pepper, green vegetable"),
    "pastry": phrases("donut, cake, pie, egg tart"),
    "seafood": phrases("shrimp, crab, lobster, oyster, scallop, fish"),
    "table": phrases("coffee table, side table"),
    "furniture": phrases("chair, couch, bed, dining table, desk, bench, cabinet, stool"),
    "seat": phrases("chair, bench, couch, stool"),
    "appliance": phrases("refrigerator, oven, microwave, toaster, dishwasher, washing machine, gas stove, blender"),
    "utensil": phrases("fork, knife, spoon, chopsticks"),
    "silverware": phrases("fork, knife, spoon"),
    "cutlery": phrases("fork, knife, spoon"),
    "tool": phrases("hammer, screwdriver, pliers, electric drill, chainsaw"),
    "instrument": phrases(
        "guitar, piano, violin, drum, cello, flute, trumpet, saxophone, trombone, tuba, french horn, cymbal"
    ),
    "weapon": phrases("gun, knife"),
    "toy": phrases("teddy bear"),
    "screen": phrases("tv, laptop, tablet"),
    "light": phrases("lamp, street light, traffic light, lantern"),
    "weight": phrases("dumbbell, barbell"),
    "card": phrases("playing card"),
    "sign": phrases("stop sign, traffic sign"),
    "camera": phrases("surveillance camera"),
    "pan": phrases("pot"),
}

UNCLEAR = words(
    "sign light ball glove racket racquet bat board bag meter glass disc disk plant card weight monitor feline canine "
    "paddle mitt container footwear paper trailer"
)
"""Words that name a category alone or with a word of appearance, but rarely with a noun before them: "exit sign"."""

IMITATED_BY = words("toy model mechanical carousel rocking hobby gummy lego origami inflatable")
"""What comes before the name of something that is an image of the thing: "toy car"."""

YOUNG = words("calf cub pup puppy foal chick kitten kit")
"""The young of several animals: the word before says whose, as in "elephant calf"."""

OTHER_THINGS = frozenset(
    phrases(
        "adam's apple, adams apple, air hockey table, airship, baby monitor, balloon, battering ram, bear paw, beer "
        "pitcher, bird bath, bleacher, booth, bulletin board, bumper, bus stop sign, cable car, cable tie, car seat, "
        "changing table, charger, check book, coast guard, console, cooler, corn dog, cotton ball, counter, crab "
        "apple, crab cake, dust pan, dutch oven, electric chair, electric meter, fish cake, flower bed, fried "
        "chicken, garden bed, ginger bread man, glass pitcher, glider, gravy boat, grinder, hand truck, high chair, "
        "ice cream sandwich, jet ski, keypad, knee guard, latex glove, light bulb, looking glass, mickey mouse, milk "
        "pitcher, mountain lion, mouth guard, movie screen, music keyboard, operating table, oven glove, paddle "
        "boat, paper airplane, paper plane, pay phone, periodic table, piano keyboard, pilot light, ping pong table, "
        "plant pot, plastic bag, pommel horse, pool table, projection screen, projector screen, railroad tie, rice "
        "cake, roast chicken, roast turkey, rubber glove, shower screen, spider man, stained glass, straw man, sun "
        "screen, super bowl, switch, table runner, table tennis table, tea bag, twist tie, urinal cake, vinyl disc, "
        "water bed, water pitcher, website, work bench, worker bee, world cup, zip tie"
    )
)
