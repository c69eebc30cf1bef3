"""Computes the index of the demo world as the image will look for it.

    python deploy/image/prepare.py ENCODER_FOLDER TARGET_FOLDER

An index is known by where its world lies and which encoder it is of, so it is made here under the
name that it will have there.
"""

import shutil
import sys
from pathlib import Path

from rag.embedder import OnnxEmbedder
from rag.index_store import index_folder, open_index
from rag.world import load_world

WORLD = Path("worlds/mulmaru")
HOME = Path("/opt/persona")


def main(encoder: Path, target: Path) -> None:
    """Write the index into a folder of `target`, alone; what of it is there already is used."""
    embedder = OnnxEmbedder(encoder)
    folder = target / index_folder(HOME / WORLD, embedder.id).name
    for other in target.glob("*"):
        if other != folder:
            shutil.rmtree(other)  # of another encoder
    _, report = open_index(load_world(WORLD).documents, embedder, folder)
    print(f"{folder}: {report.num_texts} texts, {report.num_embedded} of them embedded now")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
