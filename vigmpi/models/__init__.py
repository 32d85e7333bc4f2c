"""Models by name, as lists of layers."""

# Function from a `ModelConfig`, a backend and a seed to the model's list of layers. It is named,
# not imported: the command line needs the names, and torch takes seconds to import.
MODELS: dict[str, str] = {
    "study": "vigmpi.models.study.layers:layers",
}
