"""From what a caller passes to rows of scored images.

inputs        the forms of input: directories, files, bytes, base64, tables, s3://
guard         what is allowed over HTTP
frame         the columns of scored data
loading       a saved model, read and compared with what its server knows of it
configuration what a saved model says of itself, which can be changed at load
unknown       parameters that MLflow would drop
pyfunc        the model that MLflow loads: predict(model_input, params)
merging       over HTTP: the images of several requests go through the network together
admission     over HTTP: no work that cannot be done in time
hosting       over HTTP: cores and threads
lists         files that name images: lines of text, or a table
selection     which images are scored to a file: those of a directory or list, or a part of them
batch         scoring to a file, streamed
parts         rows that are safe on disk, to go on after
reasons       why images could not be read, counted
progress      how far it has come, and how long it will take
"""
