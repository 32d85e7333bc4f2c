from enum import StrEnum


class Phase(StrEnum):
    TRAIN = "train"
    TEST = "test"
