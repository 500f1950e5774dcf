"""How good a classifier is, whether its confidence can be believed, and where it fails.

<<<<<<< HEAD
evaluate     predicts labeled images through the predict path
metrics      numbers from targets and probabilities, scikit-learn's
intervals    how far they could be off
calibration  the temperature, and how far confidence is from accuracy
abstention   what is won by not answering where confidence is low
predictions  every image with truth and prediction, and those worth a look
figures      pictures of all that
galleries    pictures of images with their predictions
report       all of it as files
=======
evaluate      predicts labeled images through the predict path
metrics       numbers from targets and probabilities, scikit-learn's
figures       pictures of them
explanations  where in a picture the network looks
>>>>>>> 30efb1ca47d9e633077fecc2e3c8391ce5581fbf
"""
