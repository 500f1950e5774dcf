"""One training as a run of MLflow: what it begins with, what is recorded, and how it goes on after an interruption.

preparation  checked options, scanned data, the classifier to start from, images to train on
training     what is recorded before, during and after the training
launch       several processes that share the work; one of them
torchrun     starts them, in a process of its own
folder       its checkpoints: whose they are, whether it may go on, what became of it
mirror       copies of the checkpoints on another machine
"""
