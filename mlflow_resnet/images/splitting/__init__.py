"""Divides labeled images into parts (Azure: *Split Image Directory*).

directory_split  into new directories
stratified       the draw: the same share of each class in every part, of images and of groups that stay whole
groups           which images belong together: by name, by table, by their looks
"""
