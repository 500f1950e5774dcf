"""The classifier: network, classes, preprocessing, and their storage.

network        builds a torchvision ResNet for a number of classes; picks a device; folds batch norms
preprocessing  from the bytes of an image to what the network takes, the same for training, scoring and serving
weights        starting weights: ImageNet, a state_dict file, a saved model
state_dicts    reads such a file, of which nothing is executed
classifier     ImageClassifier, the one value that flows through everything
prepared       a network made ready to predict: uint8 images to probabilities
onednn         its convolutions on a CPU
precision      fp32 or bf16
prediction     Predictor: images to predictions, for evaluation, scoring and serving alike
engines        ONNX Runtime, OpenVINO, torch.export, each imported when it is first used; int8
forwards       picks the engine and the precision that predict with a classifier
storage        a saved model's files, and the digest of all that decides its answers
hardware       memory, TF32
torch_seams    what is assumed of torch
"""
