"""How much memory a process may use: the machine's, or less in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.capacity import memory_bytes

if TYPE_CHECKING:
    from pathlib import Path


def test_a_group_s_limit_counts_where_it_is_less_than_the_machine(tmp_path: Path) -> None:
    machine = memory_bytes(())
    limit, none, huge = (tmp_path / name for name in ("limit", "none", "huge"))
    limit.write_text("1048576\n")
    none.write_text("max\n")
    huge.write_text(f"{2**63}\n")
    assert memory_bytes((tmp_path / "missing", none, huge)) == machine
    assert memory_bytes((limit, none)) == 1_048_576
    assert machine > 2**28
