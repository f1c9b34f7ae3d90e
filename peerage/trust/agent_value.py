"""Agent values (arXiv 2312.09950, Eq. 6 and 7): the trust update on one vector per group.

Every member contributes a few of its latest transitions, valued by its own critic. All members read the same values.
"""

from __future__ import annotations

from torch import Tensor

from peerage.trust.td import TDTable


def samples_per_member(batch: int, n_members: int) -> int:
    """`max(1, batch // N)`."""
    return max(1, batch // n_members)


class AgentValues(TDTable):
    """`values [R, K]`: one row per replica, which its members share."""

    def update(self, target: Tensor, adviser: Tensor, valid: Tensor) -> None:
        """As `TDTable.update`, with `[M, U, B]` each. The members of a replica are pooled into `[R, U, N B]`."""
        replicas = self.values.shape[0]

        def pooled(x: Tensor) -> Tensor:
            _, updates, batch = x.shape
            return x.view(replicas, -1, updates, batch).transpose(1, 2).reshape(replicas, updates, -1)

        super().update(pooled(target), pooled(adviser), pooled(valid))
