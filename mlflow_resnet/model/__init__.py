"""The network and what travels with it.

network        builds a torchvision ResNet for a number of classes; picks a device; folds batch norms
preprocessing  from the bytes of an image to what the network takes, the same for training, scoring and serving
weights        starting weights: ImageNet, a state_dict file, a saved model
classifier     ImageClassifier, the one value that flows through everything
"""
