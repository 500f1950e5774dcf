"""Bytes of a file to a picture.

decode       the only module that opens an image
cost         what decoding would cost, before it is paid
kinds        what a file is that is not read as an image
appearance   from what is stored to what a person sees: colors, transparency, EXIF's orientation
"""
