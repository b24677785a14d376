"""The training laboratory: simulated heads in, a model bundle out.

dataset      renders simulated heads to memory-mapped shards on the network grid
pool         batches from the shards that are there so far: slices with their neighbours, the hardest more often
chance       random draws for a batch
pose         geometry of every pass
augment      what is varied at every pass: pose, the rim under the bone, blur, noise, scale of HU
picture      slices as 8-bit pictures of unknown window
losses       what is made small
experiment   one TOML file: what a run is
train        the loop
checkpoint   all that changes in a run, as safetensors
record       what a run was and how it went
curves       the same as a picture
heldout      the frozen simulated series that bundles are tuned and judged on
data         readers of data sets from outside, splits by patient, sampling, cleaning
evaluation   figures of a bundle on any data set (`triage-node evaluate`)
operating    chooses calibration and thresholds
rim          brightness under the inner table, real and simulated
export       writes a model bundle
card         the model card
release      a finished run to a bundle with its figures and its card
"""
