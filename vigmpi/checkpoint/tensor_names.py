"""Names of a checkpoint's tensors: those of the model, and with a prefix those of the training."""

_OPTIMIZER, _AVERAGE = "optimizer.", "ema."


def of_optimizer(key: str) -> str:
    """Return the name of a tensor of the optimizer's state."""
    return _OPTIMIZER + key


def average_of(name: str) -> str:
    """Return the name of the moving average of a weight or running statistic."""
    return _AVERAGE + name


def is_of_optimizer(name: str) -> bool:
    return name.startswith(_OPTIMIZER)


def is_average(name: str) -> bool:
    return name.startswith(_AVERAGE)
