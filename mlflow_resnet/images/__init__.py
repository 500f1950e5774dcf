"""Folders of images, and what is in them. Knows neither torch nor MLflow's tracking.

- `decode`: bytes to pictures; the only module that opens an image
- `parallel`: an ordered map over threads
- `sources`: an image's bytes, wherever they are
- `directories`: lists labeled and unlabeled directories
- `archives`: reads the images in zip and tar files
- `convert`: a folder or an archive to an image directory
- `split`: one labeled directory to two
- `scan`: which images are bad, and what identifies the data
- `cache`: images decoded and resized once; in memory, or on disk by `packed`, or not kept at all
- `memory`: how much memory is to be had
- `output`: files and directories that appear whole or not at all
- `digits`: the demo data set
"""
