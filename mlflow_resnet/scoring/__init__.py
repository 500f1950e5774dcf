"""From a caller's input to rows of scored images.

inputs          the forms of input: directories, files, bytes, base64, tables, s3://; MLflow's check of them
columns         the columns of scored data
loading         a saved model, read and compared with what its server knows of it
configuration   what a saved model says of itself, which can be changed at load
pyfunc          the model that MLflow loads: predict(model_input, params)
to_file         any number of images to a file
over_http       what differs when the caller is somebody else
"""
