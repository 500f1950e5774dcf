"""Metrics, calibration, explanations and figures of a classifier.

evaluation    predicts labeled images through the predict path
pairing       two models' predictions of the same images
mcnemar       the test behind it, which the gate needs too
metrics       numbers from targets and probabilities, scikit-learn's, and how far they could be off
calibration   the temperature, how far confidence is from accuracy, and what is won by not answering where it is low
figures       pictures of all that
explanations  which parts of a picture speak for a class
galleries     pictures of images with their predictions
precision_checks  whether a faster form may replace the network in fp32
report        all of it as files, with every image's prediction and those worth a look
"""
