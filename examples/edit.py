"""Change a picture: python examples/edit.py in.png "make the circle blue" out.png."""

import sys

from triptych.client import Client

image, instruction, path = sys.argv[1:]
with Client() as client:
    client.edit(image, instruction, seed=0).save(path)
print(path)
