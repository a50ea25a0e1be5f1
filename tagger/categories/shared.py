"""What the categories of all datasets share: broader words with their kinds, and phrases of other things."""

from tagger.english.words import phrases

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


OTHER_THINGS = frozenset(
    phrases(
        "adams apple, air bag, baby monitor, bean bag, beer pitcher, bird bath, bird cage, bird house, boat "
        "house, bottle cap, bottle opener, bowling pin, boxer shorts, boxing glove, brake light, bulletin "
        "board, cable car, cable tie, cake stand, candy apple, car seat, cat tail, ceiling light, chalk "
        "board, changing table, chicken wire, circuit board, clothes horse, coast guard, compact disc, corn "
        "dog, cotton ball, crab apple, crab cake, cricket bat, crystal ball, cue ball, cutting board, diaper "
        "bag, disco ball, dish washer, diving board, dog house, doll house, dust pan, egg cup, electric "
        "chair, eye ball, eye glass, field glass, fire place, fish cake, flash light, flood light, flower "
        "bed, garbage bag, garden bed, gas meter, ginger bread man, gingerbread man, glass pitcher, gold "
        "fish, golf bag, golf cart, grape fruit, gravy boat, grocery bag, gum ball, gummy bear, hand truck, "
        "hard disk, head board, head light, heart monitor, high chair, hobby horse, hour glass, ice bag, ice "
        "cream sandwich, ironing board, king pin, knee guard, light bulb, light fixture, looking glass, "
        "magnifying glass, mail bag, meat ball, mechanical bull, mickey mouse, milk glass, milk pitcher, "
        "model airplane, model train, mouse pad, mouth guard, movie screen, mud guard, music keyboard, net "
        "ball, night light, notice board, oven glove, oven mitt, paddle boat, pan cake, paper airplane, paper "
        "bag, paper plane, paper towel, pay phone, piano keyboard, pin ball, ping pong table, pitch fork, "
        "plant pot, plastic bag, plate glass, pool table, power plant, prairie dog, pressure cooker, price "
        "tag, projection screen, projector screen, punch bowl game, punching bag, railroad tie, rice cake, "
        "river bed, rocking horse, saddle bag, salt shaker, sand bag, saw horse, score board, screw driver, "
        "sea bass, sea cow, sea horse, sea lion, shin guard, shower screen, side board, sign board, skate "
        "park, sleeping bag, snow ball, snow man, space ship, spider man, spot light, stained glass, straw "
        "man, street light, suction cup, sun light, sun screen, super bowl, table cloth, table runner, table "
        "tennis table, tail light, tea bag, toilet paper, toy airplane, toy boat, toy car, toy train, toy "
        "truck, train bridge, train station, trash bag, truck bed, tuning fork, twist tie, urinal cake, "
        "washing machine, water bed, water fountain, water meter, water pitcher, water table, white board, "
        "wind screen, wire cutter, work bench, world cup, zip tie"
    )
)
