# SPDX-License-Identifier: Apache-2.0
"""What the demo asks: four prompts of quite different lengths, each good for a long answer."""

PROMPTS = (
    "Write a letter to my landlord about a broken window.",
    "Explain step by step how a bill becomes a law in the United States, and what each of the two "
    "chambers of Congress does with it on the way.",
    "A baker makes three kinds of bread. The rye loaf takes 50 minutes in the oven, the wheat loaf "
    "35 minutes and the small rolls 18 minutes. The oven is hot at five in the morning, holds one "
    "kind at a time, and the shop opens at seven. The rolls must be warm when the shop opens. In "
    "what order should the baker work, and why? Explain your plan.",
    "Here is the log of our weather station on the coast, one line a day.\n"
    "Monday: fog in the morning, light wind from the west, 11 degrees at noon, no rain.\n"
    "Tuesday: clear sky, wind from the north, 9 degrees at noon, no rain.\n"
    "Wednesday: clouds, wind from the north-west, 10 degrees, 4 mm of rain in the afternoon.\n"
    "Thursday: storm from the west with gusts of 92 km/h, 8 degrees, 31 mm of rain; the mast of "
    "the anemometer bent and was repaired in the evening.\n"
    "Friday: showers, wind from the west, 9 degrees at noon, 7 mm of rain.\n"
    "Saturday and Sunday: sunshine, no wind, frost in the nights.\n"
    "Tell the story of this week from the point of view of the person who repaired the mast.",
)
