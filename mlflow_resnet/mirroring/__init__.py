"""Copies of checkpoints on another machine, from which a training can go on when this machine is gone.

stores  where the copies are: the artifacts of the run, or a prefix in S3
mirror  what is copied there and when, and how it comes back
"""
