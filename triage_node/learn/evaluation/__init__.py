"""What a bundle is worth on a data set: pictures with labels, CT series with masks, or simulated heads.

judgement     what was said of one case, beside the truth
labels        the CSV file of a data set
images        pictures, each a series of one slice
heads         whole heads with a mask; the simulated ones
volumes       CT series with masks in a folder; nifti and segmentation read them
metrics       figures of a yes-no question
overlap       Dice, IoU, Bland-Altman
report        all figures as one dictionary, and as a table
figures       the same as pictures
run           `triage-node evaluate`
"""
