"""Broader words and their kinds: an "animal" may be a dog, and a "coffee table" is a table.

Kinds are plain category names, as in the synonym tables.
"""

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
