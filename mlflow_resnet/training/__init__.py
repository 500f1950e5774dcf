"""Training, which knows torch but not MLflow.

loop          fit(): the phases and epochs of a training as a story
trainer       one phase: its epochs and steps
epoch         the part of an epoch that is done
work          what a phase works on: the network and images, or the head and features
recipe        what "auto" becomes; the phases of a strategy
setup         checks the data; builds the classifier to start from, and the images
data          labeled images, their order and their batches; class weights
augmentation  what happens to a training image, by torchvision's names
regions       random regions of an image, cut out and resized
mixing        mixup and cutmix of a batch
randomness    random numbers that belong to one image, whichever thread draws them
optimizer     which parameters change, and how fast each
schedule      the learning rate at a step
rate_test     the loss over a rising learning rate
budget        a time budget
averaging     an exponential moving average of the weights
course        how far a training has come, and how that becomes a checkpoint
checkpoints   a state on disk
stopping      signals that wait until a step is done
best          the best epoch by any metric; patience
processes     several processes that train one network
synchronized  batch norms that see the images of all processes
progress      a bar on a terminal, lines elsewhere
"""
