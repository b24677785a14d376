"""Volume in, Prediction out. `process` runs `predict` in a child that can be killed and has a time limit.

bundle     a model on disk: settings, thresholds and weights, checked before use
measure    millilitres from a mask
predict    the model itself; the only module here that imports torch
process    the same in a child process; imports no torch
child      the main of that process
framing    what passes between the two
"""
