"""GTSRB's 43 signs, and where people have its files."""

NAMES = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80",
    "end of speed limit 80", "speed limit 100", "speed limit 120", "no overtaking", "no overtaking by trucks",
    "right of way at next crossing", "priority road", "yield", "stop", "no vehicles", "no trucks", "no entry", "danger",
    "bend to the left", "bend to the right", "double bend", "uneven road", "slippery road", "road narrows on the right",
    "road works", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow", "wild animals",
    "end of all limits", "turn right ahead", "turn left ahead", "ahead only", "ahead or right", "ahead or left",
    "keep right", "keep left", "roundabout", "end of no overtaking", "end of no overtaking by trucks")
# With the number before it, a name sorts as its label does, so that a folder of images has the same order of classes.
SIGNS = tuple(f"{number:02d} {name}" for number, name in enumerate(NAMES))

# The benchmark's own archives unpack to GTSRB/; torchvision puts them beneath gtsrb/; others name them Train and Test.
NESTINGS = ("", "GTSRB/", "gtsrb/", "gtsrb/GTSRB/", "GTSRB/GTSRB/")
TRAINING = ("Final_Training/Images", "Training", "Train")
TEST = ("Final_Test/Images", "Test")
TABLE = "GT-final_test.csv"
PLACES = tuple(f"{nesting}{training}/00000" for nesting in NESTINGS for training in TRAINING)
