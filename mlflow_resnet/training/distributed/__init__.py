"""Several processes that train one network.

processes  what they say to each other
"""
