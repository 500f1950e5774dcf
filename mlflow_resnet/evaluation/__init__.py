"""How good a classifier is.

evaluate      predicts labeled images through the predict path
metrics       numbers from targets and probabilities, scikit-learn's
figures       pictures of them
explanations  where in a picture the network looks
"""
