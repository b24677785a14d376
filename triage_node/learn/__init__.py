"""The training laboratory: simulated heads in, a model bundle out.

dataset    renders simulated heads to memory-mapped shards on the network grid
pool       batches from the shards that are there so far
augment    what is varied at every pass: pose, the rim under the bone, blur, noise, scale of HU
train      the loop: losses, EMA, checkpoints, resume, run record
evaluation figures of a bundle on any data set (`triage-node evaluate`)
operating  chooses calibration and thresholds
export     writes a model bundle
release    a finished run to a bundle with its figures and its card
"""
