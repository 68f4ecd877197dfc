"""general knowledge -> the closed sets that the tiny corpus speaks of: words, calendar, capitals, elements.

Each is small, so that the tiny track meets every fact often enough to learn it. The validation documents ask
for the same facts.
"""


def _words(text: str) -> list[str]:
    return text.split()


def _rows(text: str) -> list[tuple[str, ...]]:
    return [tuple(row.split(":")) for row in text.split()]


# WORDS and NAMES are single GPT-2 tokens, with and without a space before them.
WORDS = _words(
    """
    apple arm art ash baby back bag ball band bank base bath bean bear bed bell belt bird blue board
    boat body bone book boot bowl box bread bridge brown brush bus cake call camp cap car card cat chair
    chest child church city clock cloud coat coin cook corn cow cup dog door dragon dream dress dust ear
    earth egg engine eye face fan farm field finger fire fish flag floor flower foot forest fork fox
    frame friend frog fruit game gate glass gold grass green ground hair hall hammer hand hat head heart
    hill horse house ice iron key king knife lake leaf leg letter light lock map mark market mill money
    moon morning mouse mouth music neck night oil orange oven owl page paper park path pen picture pipe
    plate pocket pool radio rain ring river road rock room root rose sand school sea seat seed shadow
    shell ship shirt shop silver skin sky sleep song spring square stage star station stick stone storm
    story street sun table tail time tower town train tree voice wall water wave wheel wind window wine
    wing winter wolf wood world yard year
    """
)
LINE_WORDS = WORDS + _words(
    """
    a across again all and at autumn before by can comes day down dry first for from has high hills homes in
    it its knees last listen low men night of old on only rises runs sleep so sound still stop sunk tall
    than that the their then there they this through to turns very village walk was were when while who
    will with work
    """
)
LINE_WORDS_OF_LENGTH = {length: [word for word in LINE_WORDS if len(word) == length] for length in range(3, 7)}
SPELLED = [word for word in WORDS if 3 <= len(word) <= 6 and word[0] in "bcfghmprstw"]
NAMES = _words(
    """
    Adam Alex Alice Anna Ben Bob Daniel David Emily Eric Frank George Henry Jack James Jane Jason John
    Kate Kevin Laura Maria Mark Martin Mary Max Paul Peter Rachel Robert Rose Sam Sarah Simon Steve
    Susan Tom
    """
)
PLACES = _words("park market school station bank farm shop lake church beach hotel garden museum library")
GIFTS = _words("book coin key map hat cup ring card cake pen flower letter box ball drink fish")

DIGIT_WORDS = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
    """
)
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = DIGIT_WORDS + [ten + unit for ten in TENS for unit in ["", *("-" + word for word in DIGIT_WORDS[1:10])]]
"""zero to ninety-nine"""
ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))

CAPITALS = dict(
    pair.split(":")
    for pair in _words(
        """
    France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon England:London
    Scotland:Edinburgh Ireland:Dublin Norway:Oslo Sweden:Stockholm Denmark:Copenhagen Finland:Helsinki
    Poland:Warsaw Austria:Vienna Hungary:Budapest Greece:Athens Turkey:Ankara Russia:Moscow
    Belgium:Brussels Switzerland:Bern Iceland:Reykjavik Romania:Bucharest Serbia:Belgrade Egypt:Cairo
    Kenya:Nairobi Libya:Tripoli Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut China:Beijing
    Japan:Tokyo Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta Pakistan:Islamabad Afghanistan:Kabul
    Australia:Canberra Canada:Ottawa Cuba:Havana Peru:Lima Chile:Santiago Venezuela:Caracas
    """
    )
)
ELEMENTS = _rows(
    """
    hydrogen:H helium:He lithium:Li beryllium:Be boron:B carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne
    sodium:Na magnesium:Mg aluminum:Al silicon:Si phosphorus:P sulfur:S chlorine:Cl argon:Ar potassium:K
    calcium:Ca scandium:Sc titanium:Ti vanadium:V chromium:Cr manganese:Mn iron:Fe cobalt:Co nickel:Ni
    copper:Cu zinc:Zn
    """
)
"""Name and symbol; the atomic number is the place, from 1."""
PLANETS = _words("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
PLANET_FACTS = [
    "The largest planet is Jupiter.",
    "The smallest planet is Mercury.",
    "The hottest planet is Venus.",
    "The red planet is Mars.",
    "The planet with the brightest rings is Saturn.",
    "The planet we live on is Earth.",
    "Mercury has no moons.",
    "Venus has no moons.",
    "Earth has one moon.",
    "Mars has two moons.",
]
PRESIDENTS = [
    name.replace("_", " ")
    for name in _words(
        """
        George_Washington John_Adams Thomas_Jefferson James_Madison James_Monroe John_Quincy_Adams
        Andrew_Jackson Martin_Van_Buren William_Henry_Harrison John_Tyler James_K._Polk Zachary_Taylor
        Millard_Fillmore Franklin_Pierce James_Buchanan Abraham_Lincoln Andrew_Johnson Ulysses_S._Grant
        Rutherford_B._Hayes James_A._Garfield Chester_A._Arthur Grover_Cleveland Benjamin_Harrison
        Grover_Cleveland William_McKinley Theodore_Roosevelt William_Howard_Taft Woodrow_Wilson
        Warren_G._Harding Calvin_Coolidge Herbert_Hoover Franklin_D._Roosevelt Harry_S._Truman
        Dwight_D._Eisenhower John_F._Kennedy Lyndon_B._Johnson Richard_Nixon Gerald_Ford Jimmy_Carter
        Ronald_Reagan George_H._W._Bush Bill_Clinton George_W._Bush Barack_Obama
        """
    )
]
"""In order of office; Grover Cleveland twice, as the 22nd and the 24th."""
UNITS = [
    ("week", "weeks", 7, "days"),
    ("day", "days", 24, "hours"),
    ("hour", "hours", 60, "minutes"),
    ("minute", "minutes", 60, "seconds"),
    ("year", "years", 12, "months"),
    ("foot", "feet", 12, "inches"),
    ("yard", "yards", 3, "feet"),
    ("pound", "pounds", 16, "ounces"),
    ("meter", "meters", 100, "centimeters"),
    ("kilogram", "kilograms", 1000, "grams"),
    ("kilometer", "kilometers", 1000, "meters"),
]
"""One, several, how many parts one has, the parts."""
# Words without accents, so that each is a few tokens.
TRANSLATIONS = _rows(
    """
    house:maison:casa water:eau:agua dog:chien:perro cat:chat:gato bread:pain:pan milk:lait:leche
    book:livre:libro night:nuit:noche sun:soleil:sol moon:lune:luna city:ville:ciudad sea:mer:mar
    hand:main:mano mouth:bouche:boca door:porte:puerta wall:mur:muro chair:chaise:silla bed:lit:cama
    horse:cheval:caballo cow:vache:vaca apple:pomme:manzana salt:sel:sal cheese:fromage:queso
    wine:vin:vino fire:feu:fuego sky:ciel:cielo flower:fleur:flor snow:neige:nieve rain:pluie:lluvia
    wind:vent:viento street:rue:calle friend:ami:amigo king:roi:rey queen:reine:reina gold:or:oro
    silver:argent:plata red:rouge:rojo white:blanc:blanco black:noir:negro green:vert:verde
    lake:lac:lago bridge:pont:puente
    """
)
"""English, French, Spanish"""
