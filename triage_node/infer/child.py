"""The main of the inference process: volumes in on stdin, predictions out on stdout, until stdin closes.

    python -m triage_node.infer.child BUNDLE_DIR DEVICE

It sees pixels and geometry only. Started by `process.InferenceProcess`, never by hand.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import IO

from triage_node import heap
from triage_node.errors import InferenceError
from triage_node.infer.framing import prediction_frame, read_frame, volume_from_frame, write_frame
from triage_node.infer.predict import Predictor


def main(bundle_dir: str, device: str) -> int:
    """Load the bundle, say so, then answer until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    heap.reuse_arrays()
    volumes, answers = sys.stdin.buffer, _private_stdout()
    try:
        predictor = Predictor(bundle_dir, device)
    except InferenceError as error:
        write_frame(answers, {"error": str(error)}, {})
        return 1
    write_frame(answers, {"ready": True}, {})
    try:
        while True:
            _answer(predictor, volumes, answers)
    except (EOFError, BrokenPipeError):
        return 0


def _answer(predictor: Predictor, volumes: IO[bytes], answers: IO[bytes]) -> None:
    header, arrays = read_frame(volumes)
    try:
        prediction = predictor.predict(volume_from_frame(header, arrays))
    except InferenceError as error:  # our own words, which hold no patient data
        write_frame(answers, {"error": str(error)}, {})
        return
    except Exception as error:  # noqa: BLE001 - process boundary: the parent gets the kind of error, never its data
        write_frame(answers, {"error": f"the model failed ({type(error).__name__})"}, {})
        return
    write_frame(answers, *prediction_frame(prediction))


def _private_stdout() -> IO[bytes]:
    """The answer pipe; file descriptor 1 becomes stderr, so that no library can print into the answers."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
