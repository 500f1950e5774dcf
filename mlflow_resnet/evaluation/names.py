"""What the names of metrics mean, for those who compare numbers without computing any."""

LOWER_IS_BETTER = frozenset({"log_loss", "calibration/ece", "calibration/brier"})
AVERAGES = frozenset(
    f"{kind}_{name}" for kind in ("micro", "macro", "weighted") for name in ("precision", "recall", "f1")
)
FRACTIONS = AVERAGES | {"top1_accuracy", "top5_accuracy", "balanced_accuracy"}  # from 0 to 1
MEASURED = FRACTIONS | {"log_loss"}  # of each version that is promoted; what evidence holds
