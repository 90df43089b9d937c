"""A prior's network whose ranks hold a share of each weight (FSDP2), and the whole of it again.

A block's weights are gathered when it runs, forward and backward, and let go after; gradients are averaged as they are
shared out again. Optimizer and average hold what the rank holds.
"""

from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from model.priors.prior import Prior
from model.training.ranks import Ranks


def shard(network: Prior, ranks: Ranks) -> None:
    """Leave each rank with its share of the rows of each weight."""
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    blocks: list[Any] = network.blocks
    for block in blocks:
        if block.cross_attention:
            fully_shard(block.cross_attention.to_kv, mesh=mesh)  # which is called before its block
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    register_fsdp_forward_method(network, "losses")  # where a family reads more than its forward tells


def whole_weights(network: Prior) -> dict[str, Any]:
    """Return all weights in the machine's memory, on the first rank; every rank takes part."""
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
