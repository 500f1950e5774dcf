"""Folders of images, and what is in them. Knows neither torch nor MLflow's tracking.

- `decode`: bytes to pictures; the only module that opens an image
- `kinds`: what a file is that is not read as an image
- `encode`: pixels to the bytes of a file
- `colors`: stored values to what a person sees
- `parallel`: an ordered map over threads
- `sources`: an image's bytes, wherever they are
- `s3`: the wherever that is not this machine
- `rules`: what belongs to a data set, by its name
- `own_folders`: what mlflow_resnet and MLflow write, which never does
- `layout`: what folders are: classes, parts of a data set, wrappers
- `directories`: lists labeled and unlabeled directories
- `conversion`: folders, archives, S3, tables and annotations to an image directory
- `index`: the table of its images that a conversion writes
- `splitting`: one labeled directory to two or three
- `look_alikes`: which pictures are nearly the same
- `scan`: reads every image once: which are bad, and what identifies the data
- `audit`: whether the images can be trusted
- `cache`: images decoded and resized once; in memory, or on disk by `packed`, or not kept at all
- `memory`: how much memory is to be had
- `output`: files and directories that appear whole or not at all
- `destinations`: the same where the output is in S3
- `digits`: the demo data set
"""
