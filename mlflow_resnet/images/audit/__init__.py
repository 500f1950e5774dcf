"""Whether images can be trusted, before a network is trained on them.

facts     what is found out about one image
journal   facts kept from one audit to the next
findings  what is wrong with a set of images
report    the findings as a page with thumbnails, and the facts as a table
"""
