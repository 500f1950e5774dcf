"""Bytes of a file to a picture.

decode       the only module that opens an image
cost         what decoding would cost, before it is paid
kinds        what a file is that is not read as an image
colors       stored values to what a person sees
orientation  EXIF's orientation, and regions of a picture under it
"""
