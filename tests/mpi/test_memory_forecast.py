from dataclasses import replace

import pytest

from tests.conftest import OnRanks
from tests.mpi.small import CONFIG, on_first_ranks
from vigmpi.comm.topology import Topology
from vigmpi.comm.transport import Receiver, Sender
from vigmpi.errors import InputError
from vigmpi.host import HOST, resident_bytes
from vigmpi.layout import split
from vigmpi.layout.layout import Layout
from vigmpi.models.model import Model
from vigmpi.models.study.layers import study_layers
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline import memory_forecast
from vigmpi.pipeline.memory_forecast import forecast_memory, message_bytes
from vigmpi.pipeline.pipeline import Pipeline, PipelineConfig


def configuration(layout: Layout, batch_size: int) -> PipelineConfig:
    layers = study_layers(CONFIG)
    stages = split.split_layers(layers, layout.stages)
    return PipelineConfig(layout, layers, stages, batch_size)


def compare_message_buffers(schedule: str | None) -> None:
    """Compare the bytes of a stage's message buffers with their forecast."""
    layout = Layout(stages=4, replicas=1, chunks=3)
    topology = on_first_ranks(layout)
    assert topology
    config = replace(configuration(layout, 8), schedule=schedule)
    model = Model(config.stage_layers(topology.place.stage))
    channels = Pipeline(topology, config, model, Activity(topology.world.rank))._channels
    ends: list[Receiver | Sender] = [channels.features_in, channels.features_out]
    ends += [channels.gradients_in, channels.gradients_out]
    allocated = [sum(buffer.nbytes for buffer in end._buffers) for end in ends]
    neighbours = (topology.place.stage > 0) + (topology.place.stage < 3)
    assert sum(size > 0 for size in allocated) == neighbours * (2 if schedule else 1)
    assert message_bytes(config, topology.place.stage, config.max_sizes(0)) == sum(allocated)


@pytest.mark.parametrize("schedule", ["gpipe", None])
def test_all_message_buffers_of_a_stage_are_counted(
    on_ranks: OnRanks, schedule: str | None
) -> None:
    on_ranks(4, compare_message_buffers, schedule=schedule)


def train_and_evaluate_within(stages: int) -> None:
    """Give the host half of what training needs."""
    layout = Layout(stages=stages, replicas=1, chunks=2)
    topology = on_first_ranks(layout)
    assert topology
    config = configuration(layout, 100_000)
    training = forecast_memory(topology, config, _model(topology, config))
    evaluation = replace(config, schedule=None)
    free = (training.shared - topology.world.size * resident_bytes()) // 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_forecast, "memory_limits", lambda: {HOST: free})
        forecast = forecast_memory(topology, evaluation, _model(topology, evaluation))
        assert forecast.shared <= forecast.available < training.shared
        model = _model(topology, config)
        with pytest.raises(InputError, match=r"images fit\. Use --batch-size") as info:
            forecast_memory(topology, config, model)
        fitting = fitting_in(info.value, config)
        fewer = replace(config, batch_size=fitting * 9 // 10)  # resident memory varies
        forecast_memory(topology, fewer, _model(topology, fewer))


def train_in_groups_of_one(large: bool) -> None:
    """Give each rank a control group of its own, which is too small for half of the host's need."""
    layout = Layout(stages=1, replicas=2, chunks=2)
    topology = on_first_ranks(layout)
    assert topology
    config = configuration(layout, 1000)
    needed = forecast_memory(topology, config, _model(topology, config)).rank - resident_bytes()
    own = int(needed * (1.2 if large else 0.8))
    limits = {HOST: 10 * needed, f"group-{topology.world.rank}": own}
    model = _model(topology, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_forecast, "memory_limits", lambda: limits)
        if large:
            assert forecast_memory(topology, config, model).place == "in this control group"
        else:
            with pytest.raises(InputError, match="in a control group with"):
                forecast_memory(topology, config, model)


@pytest.mark.parametrize("large", [True, False])
def test_the_limit_of_a_control_group_counts_for_its_own_ranks(
    on_ranks: OnRanks, large: bool
) -> None:
    on_ranks(2, train_in_groups_of_one, large=large)


def fitting_in(error: InputError, config: PipelineConfig) -> int:
    """Return the batch size that the message of an error recommends."""
    fitting = int(str(error).split()[-1].removesuffix("."))
    assert 0 < fitting < config.batch_size
    return fitting


def test_a_limit_of_the_process_counts_for_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(stages=1, replicas=1, chunks=2)
    topology = on_first_ranks(layout)
    assert topology
    config = configuration(layout, 100_000)
    needed = forecast_memory(topology, config, _model(topology, config)).rank - resident_bytes()
    monkeypatch.setattr(memory_forecast, "process_headroom_bytes", lambda: needed // 2)
    model = _model(topology, config)
    with pytest.raises(InputError, match=r"on a rank whose limits \(ulimit") as info:
        forecast_memory(topology, config, model)
    fewer = replace(config, batch_size=fitting_in(info.value, config))
    forecast_memory(topology, fewer, _model(topology, fewer))


def _model(topology: Topology, config: PipelineConfig) -> Model:
    topology.world.Barrier()
    return Model(config.stage_layers(topology.place.stage))


@pytest.mark.parametrize("stages", [1, 2])
def test_an_evaluation_passes_where_training_needs_too_much_memory(
    on_ranks: OnRanks, stages: int
) -> None:
    on_ranks(stages, train_and_evaluate_within, stages=stages)
