"""Volume in, Prediction out. `process` runs `predict` in a child that can be killed and has a time limit.

bundle     a model on disk: settings, thresholds and weights, checked before use
predict    the model itself, of these parts:
weights      a registered network with its weights; the only module here that needs torch
graph        an ONNX graph of a site; the only one that needs onnxruntime
answer       what either says of some images, checked
series       slice logits to what is said of the series
boxes        boxes of the network to boxes on the native slices
mask         pixel probabilities to the mask on the native slices
measure      millilitres from a mask
check      the shipped bundles; whether a bundle works
process    the same in a child process; imports no torch
child      the main of that process
framing    what passes between the two
"""
