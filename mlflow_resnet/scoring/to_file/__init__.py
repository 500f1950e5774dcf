"""Scoring any number of images to a file.

lists             files that name images: lines of text, or a table
selection         which images are scored: those of a directory or list, or a part of them
batch             rows as they come, and why images could not be read
parts             rows that are safe on disk, to go on after
scoring_progress  how far it has come, and how long it will take
"""
