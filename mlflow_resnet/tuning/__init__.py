"""Looking for good options of a training.

find_lr  the learning rate range test
"""
