"""What devices tell each other inside `jax.shard_map`: one object, so that objectives know no mesh."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Spread:
    """The devices that the rows of a batch are spread over: a mesh axis. Its methods are called inside `shard_map`.

    Args:
        axis: of the mesh.
    """

    axis: str

    @property
    def size(self) -> int:
        return jax.lax.axis_size(self.axis)

    @property
    def index(self) -> jax.Array:
        """Of this device along the axis."""
        return jax.lax.axis_index(self.axis)

    def sum[Tree](self, tree: Tree) -> Tree:
        """The sum over the devices, on every device."""
        return jax.lax.psum(tree, self.axis)

    def gather[Tree](self, tree: Tree) -> Tree:
        """The devices' parts one behind the other along the first axis, on every device."""
        return jax.lax.all_gather(tree, self.axis, tiled=True)

    def mine[Tree](self, tree: Tree, length: int) -> Tree:
        """This device's part of what `gather` made, of that length."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, self.index * length, length), tree)
