"""The order of stages. No other place knows it.

    completing   RECEIVING -> READY                 as soon as it is known that no image is missing
    analyzing    READY -> ANALYZING -> REPORTED     claim, analyse, publish
    analysis     assemble, infer, decide, report    one series in between, with or without a node around it
    files        the same on the files of a folder   what `analyze` is given, or what is tried
    trying       what people try on the page for it  after all studies; nothing of it is published
    counting     how many images a source says          asked by C-FIND, never waited for long
    delivering   outbox -> destination -> SENT      and DELIVERED with the last one
    committing   SENT -> CONFIRMED                  where the destination is asked for storage commitment
    attention    what waits for a person            said in the log for as long as it lasts

Each takes its parts as arguments; `step` names the moments at which tests kill the process.
"""
