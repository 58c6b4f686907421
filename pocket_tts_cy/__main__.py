"""``python -m pocket_tts_cy``: the same as the command ``pocket-tts-cy``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
