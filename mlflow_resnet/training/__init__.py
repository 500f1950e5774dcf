"""Training. Imports torch but not MLflow.

loop          fit(): the phases and epochs of a training as a story
trainer       one phase: its epochs and steps
work          what a phase works on: the network and images, or the head and features
recipe        what "auto" becomes; the phases of a strategy
input         labeled images, augmentation, mixing
processes     several of them that train one network
optimizer     which parameters change, and how fast each at a step; the average of the weights
rate_test     the loss over a rising learning rate
course        how far a training has come; the best epoch, and patience
saving        when that becomes a checkpoint, and how it comes back
checkpoints   a state on disk
stopping      signals that wait until a step is done
progress      a bar on a terminal, lines elsewhere
"""
