"""A COCO directory packed as small crops."""

from ssl_pose.coco import load_persons
from ssl_pose.packing import pack_crops
from ssl_pose.persons import first_persons

INPUT_SIZE = (64, 48)


def pack(directory, out, split="train2017", max_persons=0, **options):
    persons = first_persons(load_persons(directory, split), max_persons)
    given = {"input_size": INPUT_SIZE, "canvas_scale": 1.5, "box_padding": 1.25, **options}
    return pack_crops(directory, persons, out, **given)
