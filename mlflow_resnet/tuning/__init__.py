"""Looking for good options of a training.

find_lr       the learning rate range test
sweep         many trainings, of which the best is done once more
trials        each of these trainings, in a child run, and their memory in Optuna's database
search_space  which options a sweep varies, and between which values
"""
