"""What clients may send, and how it is answered.

body_kinds    the kind of a body, told from the headers of its request
question      what a request asks: images and params, whatever protocol it came in
mlflow_forms  JSON, CSV and Parquet, as MLflow's scoring server takes them
image_files   image files as they are: one as the body, or several in a form
inference     version 2 of the Open Inference Protocol

Each module parses a body that `mlflow_resnet.serving.intake` has taken in, in a thread, and may raise
`RefusedBodyError`, whose sentences repeat nothing of it.
"""
