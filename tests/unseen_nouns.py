"""Nouns that name one of COCO's categories, and nouns that do not, written before the tables were asked about them."""

NAMES = {
    "person": "toddlers, ballerina, police officers, grandma, grandpa, newborn, magician, tailor, plumber, cheerleader, "
    "infielder, shortstop, quarterback, bystander, onlookers, commuter, traveler, kayaker, windsurfer, kite "
    "surfer, schoolgirl, schoolboy, stewardess, flight attendant, barista, hostess, shopkeeper, salesman, "
    "electrician, astronaut, wrestler, gymnast, cricketer, sprinter, lumberjack, homeless man, elderly woman, "
    "twins, old people, gentlemen, deliveryman, street performers, tennis players, construction workers, "
    "bellhop, engineer, hippie, crossing guard, shoppers, choir singer, bridesmaids, hockey player, line cook, "
    "drummer, sunbather, conductor woman, ski instructor, retiree, tween, bouncer, paperboy, fireman, vendor, "
    "acrobat, archer, rower",
    "bicycle": "tandem bicycle, push bikes, bmx bike, road bike, ten-speed bicycle, rental bike, kids bikes",
    "car": "limousine, station wagon, hatchback, coupe, taxicab, roadsters, sports cars, suvs, minivans, hearse, patrol "
    "car, sport utility vehicle, race car, convertibles, cop car, compact car, squad car, sedan, jeep",
    "motorcycle": "motor bikes, scooters, mopeds, harley davidson, police motorcycle, trail bike, minibike, sport bike "
    "motorcycle, vespas",
    "airplane": "airliners, seaplane, jumbo jet, propeller plane, aeroplanes, bomber, monoplane, commercial airplane, "
    "warplane, passenger jet, jumbojet, propeller airplane, stealth bomber, glider plane, delta airplane, "
    "jetliners",
    "bus": "school buses, trolley bus, tour buses, shuttle bus, motorcoach, city bus, omnibus, transit bus, charter bus, "
    "minibuses",
    "train": "steam engine, freight train, bullet train, commuter train, steam locomotive, trams, streetcars, cargo "
    "train, diesel locomotive, amtrak train, monorails",
    "truck": "dump truck, garbage truck, tow truck, tractor trailer, firetruck, semi truck, delivery truck, ladder truck, "
    "pickups, cement truck, ups truck, moving truck",
    "boat": "tugboat, barge, schooner, dinghy, motorboat, houseboat, gondolas, ferryboat, cruise ship, trawler, lifeboat, "
    "steamboat, sailing boat, catamarans, tugs, ocean liner, speed boats, pontoon boat, pirate ship, kayaks, junk "
    "boat",
    "traffic light": "traffic signals, stop lights, stoplight, traffic lights, red traffic signal",
    "fire hydrant": "fire hydrants, fireplug",
    "stop sign": "stop signs, octagonal stop sign",
    "parking meter": "parking meters, double parking meter",
    "bench": "benches, garden bench, stone bench, picnic bench, bus bench",
    "bird": "mallard, cockatoo, parakeet, finch, woodpeckers, bluebird, osprey, vulture, falcon, stork, egret, toucan, "
    "macaw, turkey, raven, blue jay, chickadees, cormorant, puffin, emu, pheasant, cygnet, ducklings, white "
    "pelicans, hummingbirds, roosters, canary, magpie, sandpiper, kingfisher, albatross, quail, peahen, "
    "cockatiel, starlings, warbler",
    "cat": "tabby, siamese cat, persian cat, tomcat, house cat, kitty cat, calico cat, kittens, manx, alley cat, tabbies",
    "dog": "beagle, husky, greyhound, rottweiler, doberman, border collie, cocker spaniel, pit bull, dachshund, sheepdog, "
    "great dane, pomeranian, schnauzer, hound, mutt, yorkshire terrier, saint bernard, lapdog, huskies, labradors, "
    "bloodhound, dalmatians, wiener dog, terriers, malamute, basset hound, guide dog",
    "horse": "ponies, racehorse, palomino, stallions, bronco, thoroughbred, pinto horse, police horse, arabian horse, "
    "draft horse, mustangs, fillies",
    "sheep": "rams, bighorn sheep, ewes, merino, lambs, mountain sheep",
    "cow": "oxen, bulls, longhorn, heifers, water buffalo, dairy cow, steers, bison, calves, dairy cows, angus bull, ox",
    "elephant": "elephant calf, indian elephant, african elephants, circus elephant",
    "bear": "grizzly bear, brown bear, black bear, pandas, bear cubs, kodiak bear, bears, cinnamon bear",
    "zebra": "zebras, baby zebra, zebra foal",
    "giraffe": "giraffe calf, baby giraffe, giraffes",
    "backpack": "rucksack, haversack, back packs, hiking backpack",
    "umbrella": "umbrellas, beach umbrella, parasols, rain umbrella, patio umbrella",
    "handbag": "purses, pocketbook, clutch bag, leather purse, hand bags",
    "tie": "neckties, bow ties, bow-tie",
    "suitcase": "briefcases, suit cases, travel suitcase, rolling suitcase, luggage cases",
    "frisbee": "frisbee disc, flying disc, discs",
    "skis": "cross country skis, snow skis",
    "snowboard": "snowboards",
    "sports ball": "soccer balls, softball, volleyballs, golf ball, rugby ball, tennis balls, footballs, red ball, kick "
    "ball, beach balls, cricket balls",
    "kite": "box kite, kites, stunt kite",
    "baseball bat": "baseball bats, metal bat",
    "baseball glove": "mitts, catcher's mitt, baseball gloves",
    "skateboard": "longboard, skateboards, skate boards",
    "surfboard": "surf boards, boogie boards, long surfboard, paddle boards",
    "tennis racket": "tennis racquets, rackets, racquets",
    "bottle": "ketchup bottle, soda bottles, beer bottles, glass bottles, perfume bottle, wine bottles",
    "wine glass": "wineglasses, champagne flute, red wine glasses",
    "cup": "paper cups, beer mug, tea cups, coffee mugs, plastic cups, measuring cup, espresso cup",
    "fork": "salad fork, forks, plastic fork, dinner forks",
    "knife": "steak knife, butcher knife, pocketknife, cleaver, bread knife, carving knife, butter knives",
    "spoon": "tablespoon, wooden spoons, soup spoon, serving spoon, ladles",
    "bowl": "salad bowl, punch bowl, cereal bowls, fruit bowl, dog bowl, rice bowls",
    "banana": "banana bunch, plantains",
    "apple": "granny smith apple, eating apple, red apples, macintosh apple",
    "sandwich": "club sandwich, hoagie, submarine sandwich, hamburgers, turkey sandwich, grilled cheese sandwich, "
    "cheeseburgers",
    "orange": "navel orange, mandarins, blood orange, clementines",
    "broccoli": "broccoli florets, vegetables",
    "carrot": "baby carrots, veggies",
    "hot dog": "hotdogs, chili dog",
    "pizza": "pepperoni pizza, pizza slices, cheese pizza, deep dish pizza",
    "donut": "cruller, doughnuts, jelly donut, chocolate doughnut",
    "cake": "cupcakes, layer cake, fruitcake, chocolate cake, sponge cake, wedding cakes, cheesecake, torte",
    "chair": "bar stool, folding chairs, throne, swivel chair, barstools, deck chair, beach chairs, dining chair, rocker "
    "chair, easy chair, armchairs",
    "couch": "divan, loveseats, sofas, sleeper sofa, leather couch, settee",
    "potted plant": "house plants, potted palm, potted plants",
    "bed": "four poster bed, hospital bed, bunk beds, double bed, twin bed, king size bed, hammock bed",
    "dining table": "dining room table, dinner tables, wooden tables, banquet table, picnic tables, coffee tables",
    "toilet": "urinals, toilets, toilet bowl, commode",
    "tv": "flat screen tv, television sets, plasma tv, television screen, flatscreen tv, crt monitor",
    "laptop": "laptop computers, notebook computer, macbooks",
    "mouse": "wireless mouse, computer mice",
    "remote": "remote controls, wii remotes, tv remotes, game controller",
    "keyboard": "computer keyboards",
    "cell phone": "flip phone, cellular phone, iphones, smart phones, mobiles",
    "microwave": "microwaves, microwave ovens",
    "oven": "stoves, gas oven, toaster oven, wall oven",
    "toaster": "toasters",
    "sink": "kitchen sink, bathroom sinks, pedestal sink, bathroom sink",
    "refrigerator": "fridges, mini fridge, icebox, freezer, refrigerators",
    "book": "paperback, cookbook, hardback, textbooks, hardcover book, comic books, phone book, bible",
    "clock": "grandfather clock, wall clocks, alarm clocks, cuckoo clock, tower clock, clocks",
    "vase": "flower vase, vases, glass vase",
    "scissors": "scissors",
    "teddy bear": "stuffed bears, teddies, teddy bears",
    "hair drier": "hairdryers, blow dryers",
    "toothbrush": "electric toothbrush, toothbrushes, tooth brushes",
}

OTHERS = {
    "person": "mannequin, statue, scarecrow, snowman, doll, action figure, police car, manhole cover, cowgirl hat, player "
    "piano, kid goat, male lion, robot, cook book, guard rail, lifeguard tower, child seat, driver seat, nurse "
    "shark, king crab, queen bed, officer hat, worker bee, batter bowl, daddy long legs, bride dress, baby "
    "elephant, lady bug, playing card, snow angel, totem pole, portrait frame, boy scout badge, manatee, womens "
    "restroom, dancing shoe, bull rider saddle, skeleton, grave stone, guitar player shirt, fisherman hat, "
    "tailor shop, baby bottle, barber shop, pawn, painter brush, surfer wave",
    "bicycle": "bike rack, bike path, bicycle wheel, bicycle seat, motor home, cycle lane, tricycle bell, bicycle helmet",
    "car": "cart, golf cart, dining car, railroad car, carport, race car track, car keys, boxcar, cable cars, side "
    "mirror, car wash, tram car track, oscar, car ramp, cart wheel",
    "motorcycle": "motorcycle helmet, motorboat, motor, motorcade route, motorcycle seat, motor oil",
    "airplane": "airplane wing, runway, toy plane, helicopter, jet ski, blimp, hang glider, plane tree, jet engine, "
    "airport, plane ticket, paper airplane, drone, jet bridge, airplane hangar, plane engine",
    "bus": "bus stop, bus lane, bush, business card, bus station, bus shelter, bus route, busboy tray, bus ticket",
    "train": "train tracks, training wheel, train ticket, trainer shoe, model train, train platform, train whistle, train "
    "bridge, train car door, bridal train dress",
    "truck": "hand truck, truck bed, toy truck, truck tire, fork lift, truck driver, truck bumper, monster truck tire",
    "boat": "gravy boat, boat house, dock, canoe paddle, airship, boat ramp, spaceship, boat shoe, boat dock, sail, boat "
    "trailer, canoe rack, anchor",
    "traffic light": "flashlight, spotlight, christmas lights, lighthouse, porch light, neon light, stage light, tail "
    "light, strobe light, headlights, traffic cone, traffic sign, ceiling lights, sunlight, candle "
    "light, light house, flood light, bike light, lamp light, light pole, traffic jam, traffic cop",
    "stop sign": "one way sign, street sign, yield sign, exit sign, neon sign, billboard, bus stop sign, no parking sign, "
    "store sign, restroom sign, railroad crossing sign, peace sign, stop watch, sign post, speed limit sign, "
    "welcome sign, street name sign, sale sign, pedestrian sign, hotel sign, construction sign, sign "
    "language, neon bar sign, caution sign",
    "fire hydrant": "fire extinguisher, fire escape, fire alarm, fireplace, fire truck, fire pit, fire station, campfire, "
    "hydrangea",
    "parking meter": "parking lot, water meter, thermometer, speedometer, parking garage, gas meters, parking space, "
    "water meter cover, electric meter, parking ticket",
    "bench": "bench press, workbench, park ranger, bench seat cushion, bench leg",
    "bird": "bird house, bird feeder, butterfly, bird nest, chicken nugget, fried chicken, chicken wing, duck tape, "
    "turkey sandwich, chicken salad, badminton birdie, duck boat, crane truck, bird cage, bird seed, turkey "
    "dinner, duck sauce, chicken soup, eagle scout, bird bath, chicken nuggets, jailbird jersey, robin hood hat",
    "cat": "catfish, caterpillar, cat food, cat tail, tiger, lion, leopard, catcher, cat litter, cat tower, cheetah, cat "
    "collar, catamaran, cat bed",
    "dog": "corn dog, prairie dogs, wolf, fox, hyena, coyote, dog collar, seal pup, dog sled, hot dogs, dog park, dog "
    "tag, dog bed, raccoon, jackal, hot dog bun, dog leash, dogwood tree",
    "horse": "seahorse, rocking horse, sawhorse, horse trailer, carousel horse, donkey, horse shoe, hippopotamus, pommel "
    "horse, horse stable, horseradish, horse race track, hobby horse, sea horse, horse tail",
    "sheep": "sheep skin, goat, battering ram, lamb chop, sheep pen, sheep dog, goatee, lamb stew",
    "cow": "cowbell, cow hide, whale calf, elephant calf, bullhorn, bulldozer, pit bull, bull dog, mechanical bull, "
    "buffalo wing, cowboy, cow bell, bull horn, bullseye, ox cart, calf muscle, beef patty",
    "elephant": "elephant trunk, elephant seal, elephant statue, elephant ear, elephant tusk",
    "bear": "koala bear, gummy bear, beard, teddy bear, bear statue, ball bearing, bear hug, polar ice cap, bearskin hat",
    "backpack": "bean bag, trash bag, punching bag, sleeping bag, paper bags, grocery bag, camera bag, ice bag, pack of "
    "gum, bag of chips, shopping bags, doggie bag",
    "handbag": "tea bag, garbage bag, ziploc bag, sand bag, golf bag, air bag, flour bag, laundry bag",
    "suitcase": "mail bag, plastic bags, bag pipe, pillow case, display case, glasses case, guitar case, phone case, book "
    "case",
    "tie": "zip tie, railroad tie, twist tie, tie rack, cable tie, tie clip, bow and arrow, tie rod",
    "frisbee": "disc brake, compact disc, disc jockey, disk drive, compact discs, disc golf basket, vinyl disc",
    "skis": "jet ski, ski lift, ski poles, ski slope, ski boot, ski jump, ski goggles, ski mask, jet skis, ski resort, "
    "ski jacket, ski tracks, ski instructor",
    "snowboard": "cutting board, ironing board, dash board, chess board, diving board, bulletin boards, billboard, "
    "snowboard jacket, emery board, base board, board room, key board",
    "skateboard": "clip board, floor board, skateboard ramp, score board, surf board, drawing board, notice board",
    "surfboard": "white board, sign board, message board, circuit board",
    "sports ball": "disco ball, meat balls, cotton balls, crystal ball, eye ball, ball cap, ball gown, wrecking ball, "
    "christmas ball, baseball cap, football field, matzo ball, snow balls, basketball court, ball pit, "
    "bowling pin, ball bearing, ornament ball, mirror ball, masquerade ball, golf cart, tennis racket, "
    "baseball bat, ball player, pompom, melon ball",
    "baseball bat": "cricket bat, fruit bat, vampire bat, bat cave, bath towel, bat wing",
    "baseball glove": "boxing gloves, rubber glove, latex gloves, ski glove, work glove, oven glove, winter glove, hockey "
    "glove, oven mitt, glove compartment",
    "tennis racket": "badminton racket, squash racquet, ping pong paddle, tennis shoe, tennis net, tennis court, lacrosse "
    "stick, tennis ball, racquetball court",
    "bottle": "bottle cap, bottle opener, bottle label",
    "wine glass": "magnifying glass, stained glass, eye glasses, hour glass, glass door, looking glass, window glass, "
    "glass table, pane of glass, spy glass",
    "cup": "suction cup, egg cup, cup holder, cupboard, measuring glass, cupcake, suction cups, cup board, world cup "
    "trophy",
    "fork": "pitch fork, tuning fork, forklift, road fork sign, fork lifts",
    "knife": "knife block, knife rack, knife holder, jack knife dive",
    "bowl": "toilet bowl, bowling ball, super bowl, bowling alley, bowl cut",
    "apple": "pineapple, apple tree, apple juice, adam's apple, apple core, apple sauce, apple watch, crab apple tree",
    "orange": "orange juice, orange tree, orange peel, orange cone, orange shirt",
    "banana": "banana bread, banana split, banana tree, banana peel, banana leaf, banana pudding",
    "sandwich": "ice cream sandwich, sandwich board, sandwich bag, sandwich shop",
    "carrot": "carrot cake, carrot top, carrot stick figure nose",
    "pizza": "pizza cutter, pizza box, pizza oven, pizza slicer, pizza sauce, pizzeria",
    "cake": "pancake, crab cake, rice cake, cake stand, urinal cake, cake pan, cake knife, cup holder, fish cakes",
    "chair": "chair lift, electric chair, chairman, chair leg, wheel, chairlift",
    "potted plant": "power plant, eggplant, plant stand, nuclear plant, plant pot, manufacturing plant, planter, "
    "plantation",
    "bed": "flower bed, river bed, bed sheet, bed spread, bedroom, bed frame, bed skirt, bunk house, truck beds, bedside "
    "lamp",
    "dining table": "pool table, changing table, table cloth, tablet, ping pong table, operating table, table tennis, "
    "table lamp, tablecloth, table leg, periodic table, air hockey table",
    "toilet": "toilet paper, toilet brush, toilet tank, toilet seat cover, toiletries",
    "tv": "baby monitor, heart monitor, tv stand, monitor lizard, tv tower, tv antenna, television tower, tv cabinet",
    "laptop": "laptop case, laptop bag, laptop stand",
    "mouse": "mickey mouse, mouse pad, mouse trap, moose, mousse, mouse pads",
    "keyboard": "piano keyboard, key board hook, keypad, keyboard player, keychain",
    "cell phone": "telephone pole, pay phone, phone booth, microphone, head phones, phone cord, head phone, saxophone, "
    "phone book",
    "oven": "oven mitt, dutch oven, oven door, oven glove",
    "refrigerator": "refrigerator magnet, refrigerator door, fridge magnet",
    "book": "book shelf, book bag, bookcase, bookmark, match book, book store, bookend, notebook paper, scrapbook paper, "
    "check book",
    "clock": "clock tower, clock hand, clock face hand, clock radio, clockwork",
    "sink": "sink hole, sinker, sink faucet, sinkhole",
    "toothbrush": "toothpaste, toothpick, paint brush, hair brush, tooth paste, toothpick holder",
    "hair drier": "clothes dryer, hair brush",
    "scissors": "scissor lift, scissor kick",
    "zebra": "zebra crossing, zebra print",
    "kite": "kite string, kite tail",
    "hot dog": "hot dog stand, dog",
    "donut": "donut box, donut shop",
    "couch": "couch cushion, couch pillow",
    "microwave": "microwave dinner",
    "vase": "vaseline",
    "teddy bear": "bear, stuffed crust pizza",
}
