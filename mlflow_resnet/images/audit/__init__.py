"""Audit of images before a network is trained on them.

image_facts   what is found out about one image, and kept from one audit to the next
findings      what is wrong with a set of images
audit_report  the findings as a page with thumbnails, and the facts as a table
"""
