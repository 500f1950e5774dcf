"""What the names of metrics mean, for those who compare numbers without computing any."""

LOWER_IS_BETTER = frozenset({"log_loss", "calibration/ece", "calibration/brier"})
