"""The order of stages. No other place knows it.

    completing   RECEIVING -> READY                 as soon as it is known that no image is missing
    analyzing    READY -> ANALYZING -> REPORTED     claim, analyse, publish
    analysis     assemble, infer, decide, report    one series in between, with or without a node around it
    delivering   outbox -> destination -> SENT      and DELIVERED with the last one
    attention    what waits for a person            said in the log for as long as it lasts

Each takes its parts as arguments; `step` names the moments at which tests kill the process.
"""
