"""Training, which knows torch but not MLflow.

loop          fit(): the epoch loop as a story
setup         checks the data; builds the classifier to start from
data          labeled images, their order and their batches
augmentation  random region and flip of one training image
schedule      the learning rate at a step
progress      a bar on a terminal, lines elsewhere
"""
