"""From wherever images are to an image directory (Azure: *Convert to Image Directory*).

update    the work itself: read, check, write, go on after an interruption
entries   what a source holds, one entry per image: folders, archives, s3://, tables
archives  .zip and .tar, read without extracting
tables    CSV, Parquet and JSON lines with an image, or its path, and a label per row
coco      COCO annotations with one label per image
changes   what an earlier call wrote, also an unfinished one, and the source has otherwise now
"""
