"""Draw what happens in the slow state z_H while a maze is solved: how far each cell's state moved in every segment.

    python examples/look_inside.py maze.txt inside.png      # wants matplotlib: pip install 'hrm-torch[plot]'

A maze file is rows of "# SG", square. Each panel is one segment; dark cells moved most since the one before, the answer so
far is dotted.
"""

import sys
from pathlib import Path

import numpy as np

from hrm import Reasoner


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    maze, picture = sys.argv[1:]
    text = Path(maze).read_text()
    reasoner = Reasoner.load("maze", "cpu", states=True, max_segments=64).fitting(text)
    solution = reasoner.solve(text)
    task = reasoner.task
    walls = (task.parse(solution.puzzle) == 0).reshape(task.rows, task.columns)
    states = [thought.states[0] for thought in solution.trace]  # (S, D) each, a cell a row
    pairs = zip(states, [states[0], *states], strict=False)  # where the first began says nothing
    moved = [np.sqrt(((z_H - before) ** 2).mean(-1)).reshape(walls.shape) for z_H, before in pairs]
    answers = [(task.decode(thought.tokens) == 4).reshape(walls.shape) for thought in solution.trace]
    count = len(moved)
    figure, panels = pyplot.subplots(1, count, figsize=(2.6 * count, 2.9), squeeze=False)
    for number, (panel, field, path) in enumerate(zip(panels[0], moved, answers, strict=True), 1):
        panel.imshow(np.ma.masked_where(walls, field), cmap="magma_r", vmin=0, vmax=max(map(np.max, moved)))
        panel.scatter(*np.argwhere(path).T[::-1], s=3, color="#1f9d55")
        panel.set(title=f"segment {number}", xticks=[], yticks=[], facecolor="#30343b")
    figure.suptitle("valid and shortest" if solution.verified else f"not solved: {solution.fault}", y=0.14, fontsize=9)
    figure.savefig(picture, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
