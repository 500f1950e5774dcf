"""What a training reads: labeled images and what happens to them.

labeled_images  their order and their batches; class weights
augmentation    what happens to a training image, by torchvision's names
mixing          mixup and cutmix of a batch
randomness      random numbers that belong to one image, whichever thread draws them
"""
