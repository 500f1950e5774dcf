"""Training. Imports torch but not MLflow.

loop          fit(): the phases and epochs of a training as a story
trainer       one phase: its epochs and steps
epoch         the part of an epoch that is done
work          what a phase works on: the network and images, or the head and features
recipe        what "auto" becomes; the phases of a strategy
input         labeled images, augmentation, mixing
distributed   several processes that train one network
setup         checks the data; builds the classifier to start from, and the images
optimizer     which parameters change, and how fast each
schedule      the learning rate at a step
rate_test     the loss over a rising learning rate
budget        a time budget
averaging     an exponential moving average of the weights
course        how far a training has come; its state as one dictionary
saving        when that becomes a checkpoint, and how it comes back
checkpoints   a state on disk
stopping      signals that wait until a step is done
best          the best epoch by any metric; patience
progress      a bar on a terminal, lines elsewhere
"""
