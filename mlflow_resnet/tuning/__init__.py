"""The search of `sweep` for good options of a training.

trials        each of its trainings, in a child run, and their memory in Optuna's database
search_space  which options a sweep varies, and between which values
"""
