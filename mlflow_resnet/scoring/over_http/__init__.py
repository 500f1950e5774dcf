"""What differs when the caller is somebody else.

servers         whether the caller may be somebody else
guard           what is allowed
bodies          what may be parsed
admission       requests at once, and no work that cannot be done in time
merging         the images of several requests go through the network together
mlflows_server  has `mlflow models serve` go by these, and say what may be said
"""
