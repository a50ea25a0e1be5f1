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
    "paddle mitt container footwear paper trailer seat toy pastry cooker trolley"
)
"""Words that name a category alone or with a word of appearance, but rarely with a noun before them: "exit sign"."""

IMITATED_BY = words("toy model mechanical carousel rocking hobby gummy lego origami inflatable")
"""What comes before the name of something that is an image of the thing: "toy car"."""

COOKED = words("fried roast roasted grilled baked smoked shredded barbecued")
"""What comes before the name of an animal that is food: "fried chicken"."""

YOUNG = words("calf cub pup puppy foal chick kitten kit")
"""The young of several animals: the word before says whose, as in "elephant calf"."""

PORTIONS = words("slice half wedge segment piece chunk floret stalk spear bunch herd flock")
"""Parts and numbers of the thing before them: "apple slice", "horse herd"."""

OTHER_THINGS = frozenset(
    phrases(
        "adam's apple, adams apple, air hockey table, airship, baby monitor, baby seat, balloon, balloon animal, "
        "balloon dog, battering ram, bear paw, beer pitcher, bicycle fork, bike fork, billiard table, bird bath, "
        "bleacher, block plane, boat launch, booth, bra cup, bread tie, bridal train, bulletin board, bumper, bus stop "
        "sign, cable car, cable tie, cake batter, car seat, carpet runner, changing table, charger, check book, coast "
        "guard, console, cooler, corn dog, cotton ball, counter, crab apple, crab cake, craps table, cream pitcher, "
        "creek bed, drawing board, dress train, dust bowl, dust pan, dutch oven, dvd player, egg beater, electric "
        "chair, electric meter, electronic keyboard, field mouse, fish cake, flower bed, foosball table, fork truck, "
        "garden bed, ginger bread man, glass pitcher, glider, gravy boat, grinder, hair tie, hand plane, hand truck, "
        "hello kitty, ice cream sandwich, iron man, jet ski, keypad, knee guard, lake bed, latex glove, light bulb, "
        "looking glass, lynx, massage table, media player, mickey mouse, milk pitcher, minnie mouse, mountain lion, "
        "mouth guard, movie screen, mp3 player, muffin cup, multiplication table, music keyboard, music player, "
        "musical keyboard, nuclear plant, ocelot, operating table, oven glove, pallet truck, paper airplane, paper "
        "plane, pay phone, periodic table, piano keyboard, pickup bed, pilot light, ping pong table, plant pot, "
        "plastic bag, pommel horse, pool table, potato cake, projection screen, projector screen, railroad tie, rash "
        "guard, rice cake, roller coaster car, rose bed, rose bowl, rubber glove, seed bed, shower screen, skate bowl, "
        "ski gondola, slow cooker, snooker table, speaker phone, spider man, stained glass, stanley cup, steering "
        "wheel, stick man, straw man, sun screen, super bowl, switch, table runner, table tennis table, tanning bed, "
        "tea bag, time table, tin man, trojan horse, trophy cup, truck cab, twist tie, urinal cake, vinyl disc, water "
        "bed, water pitcher, website, wedding train, work bench, worker bee, world cup, zip tie"
    )
)
