"""Records of runs.

server    whether the tracking server and the registry answer
conflicts whether a run that was given can take a record and stay true
remains   what a server still has of a training that was recorded completely
run       attaching to a run or starting one, and how it ends
data      labeled directories, checked before training, as dataset inputs
dataset   ImageDirectory as an MLflow dataset input
training_record what a training leaves
record    the params, metrics, pictures and model of a training or an evaluation
card      the run's description in Markdown
pieces    what a record consists of, and how each piece reaches the server
recorder  where pieces go: to the server at once
outbox    or by way of folders on the disk
outages   a run whose record goes by way of an outbox
notes     named facts that outlive a process
"""

import mlflow  # noqa: F401 - first, because MLflow loads `dataset` while it is imported
