"""From what a caller passes to rows of scored images.

inputs  the forms of input: directories, files, bytes, base64, tables, s3://
guard   what is allowed over HTTP
frame   the columns of scored data
pyfunc  the model that MLflow loads: predict(model_input, params)
batch   scoring a directory to a file, streamed
parts   rows that are safe on disk, to go on after
"""
