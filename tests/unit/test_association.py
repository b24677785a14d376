"""The thread of an association stands still while an answer is waited for."""

from __future__ import annotations

import threading

from triage_node.peers.association import Checkpoint

ROUNDS = 2000


def test_who_clears_a_checkpoint_goes_on_when_the_other_thread_stands_and_not_before() -> None:
    running = threading.Event()
    ended = threading.Event()

    def react() -> None:
        while not ended.is_set():
            running.set()
            running.clear()
            checkpoint.wait()

    thread = threading.Thread(target=react, daemon=True)
    checkpoint = Checkpoint(thread)
    thread.start()
    for _ in range(ROUNDS):
        checkpoint.clear()
        running.clear()
        assert not running.wait(0.0002)
        checkpoint.set()
    ended.set()
    thread.join(10)
    checkpoint.clear()  # nobody is there any more to stand still
    assert not thread.is_alive()
