"""What near-duplicates are told by: a perceptual hash of a picture, a MinHash signature of a text.

picture: the DCT hash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) at 256 bits
  rather than its usual 64, at which charts and pages with the same layout fall together.
text: MinHash (Broder 1997) over runs of three words.
"""

import hashlib
import re
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, KEPT = 64, 16  # pixels a side; frequencies a side
HASH_BITS = KEPT * KEPT
FLAT = 1.0  # DCT coefficients below it are noise on plain areas (grey levels 0..255, orthonormal DCT)
NUM_PERMUTATIONS = 64
RUN = 3  # words
# Words; where a script writes none apart, every character is one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
Signature = NDArray[np.uint32]


@cache
def _dct_rows() -> NDArray[np.float64]:
    """The lowest KEPT frequencies of the orthonormal DCT-II over SIDE samples, (KEPT, SIDE)."""
    frequency, sample = np.arange(KEPT)[:, None], np.arange(SIDE)[None]
    rows: NDArray[np.float64] = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * sample + 1) * frequency / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows


def picture_hash(image: Image.Image) -> int:
    """256 bits; near pictures differ in few. Loads the picture (raises what Pillow raises)."""
    image.draft("L", (SIDE, SIDE))  # JPEG decodes at an eighth of the size, where that is enough
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    rows = _dct_rows()
    coefficients = rows @ pixels @ rows.T
    median = np.median(coefficients.flatten()[1:])  # without the mean brightness
    bits = coefficients > median + FLAT
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(first: int, second: int) -> int:
    """Differing bits."""
    return (first ^ second).bit_count()


def words(text: str) -> list[str]:
    """Without case, punctuation and width variants."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def signature(text: str) -> Signature:
    """(NUM_PERMUTATIONS,): the share of equal places of two estimates how many runs of words their texts share."""
    found = words(text)
    runs = {" ".join(found[i : i + RUN]) for i in range(max(1, len(found) - RUN + 1))}
    hashed = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs]
    multipliers, offsets = _permutations()
    permuted = np.array(hashed, dtype=np.uint64)[None] * multipliers[:, None] + offsets[:, None]  # modulo 2**64
    smallest: NDArray[np.uint64] = permuted.min(axis=1)
    return (smallest >> np.uint64(32)).astype(np.uint32)


@cache
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    rng = np.random.Generator(np.random.PCG64(0))  # part of the format: the same for every mix
    drawn = rng.integers(0, 1 << 64, (2, NUM_PERMUTATIONS), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


def similarity(first: Signature, second: Signature) -> float:
    """Estimated Jaccard similarity, 0 to 1, give or take 0.06 at one half."""
    return float(np.mean(first == second))
