"""Ask about a picture: python examples/ask.py photo.jpg "what is on the left?"."""

import sys

from triptych.client import Client

image, question = sys.argv[1:]
with Client() as client:  # TRIPTYCH_ADDRESS, or 127.0.0.1:50050
    print(client.ask(image, question).text)
