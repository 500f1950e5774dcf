"""From wherever images are to an image directory (Azure: *Convert to Image Directory*).

convert    the work itself: read, check, write, go on after an interruption
entries    what a source holds, one entry per image: folders, archives, s3://, tables
archives   .zip and .tar, read without extracting
tables     CSV, Parquet and JSON lines with a path and a label per row
coco       COCO annotations with one label per image
journal    what an unfinished conversion has done
"""
