"""Several processes that train one network.

processes     what they say to each other
synchronized  batch norms that see the images of all of them
"""
