"""The three texts of all benchmarks."""

SHORT = "Hello world."

MEDIUM = (
    "The old lighthouse keeper climbed the narrow stairs every evening, carrying a small lamp and "
    "a book under his arm. From the top he could see the whole bay, and on clear nights even the "
    "lights of the distant harbour."
)

LONG = (
    "On the first morning of spring the market square was full long before the sun had reached "
    "the roofs. Farmers came down from the hills with carts of onions, apples and fresh bread, "
    "and the fishermen brought what the night had given them. Nobody was in a hurry. A boy with a "
    "wooden flute sat on the steps of the fountain and played the same four notes again and again, "
    "until an old woman gave him a coin and asked him to learn a fifth one.\n"
    "By noon the noise had grown so loud that the bells of the church could hardly be heard. A "
    "merchant from the south was selling cloth in every colour of the sea, and he told each "
    "customer a different story about where it came from. Some believed him, most of them laughed, "
    "but nearly everybody bought something. Even the baker, who had sworn that he would never wear "
    "blue, went home with a long blue scarf around his neck.\n"
    "In the afternoon the clouds came over the mountains and the first drops fell. The stalls were "
    "closed one after another, the carts rolled home, and the square slowly became quiet. Only the "
    "boy stayed where he was. He had found a dry place under the arch of the gate, and there he "
    "played his five notes to the rain. The old woman heard him from her window, and she smiled, "
    "because the fifth note was exactly the right one."
)

TEXTS = {"short": SHORT, "medium": MEDIUM, "long": LONG}
