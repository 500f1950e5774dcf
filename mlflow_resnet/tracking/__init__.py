"""Records of runs.

server    whether the tracking server and the registry answer
run       attaching to a run or starting one, whether it can take a record and stay true, and how it ends
data      labeled directories, checked before training, as dataset inputs
dataset   ImageDirectory as an MLflow dataset input
pieces    what a record consists of, and how each piece reaches the server
record    the params, metrics, pictures and model of a training or an evaluation, sent to the server at once
outbox    or by way of folders on the disk
card      the run's description in Markdown
training_record  what a training leaves
"""

import mlflow  # noqa: F401 - first, because MLflow loads `dataset` while it is imported
