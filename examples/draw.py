"""Draw from a description: python examples/draw.py "a red circle above a blue square" out.png."""

import sys

from triptych.client import Client

text, path = sys.argv[1:]
with Client() as client:
    drawing = client.draw(text, seed=0)
drawing.save(path)
print(f"{path}: {drawing.width}x{drawing.height}, seed {drawing.seed}")
