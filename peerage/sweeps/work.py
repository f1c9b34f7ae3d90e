"""What a worker does with a task of a sweep: train a run, resume it, or measure its speed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import torch

from peerage.config import Config
from peerage.config.file import from_dict
from peerage.evaluation.alone import GroupActor
from peerage.evaluation.evaluate import Evaluator, episode_seeds
from peerage.nets import workers
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.session import resume, run_training
from peerage.sweeps.launch import Task
from peerage.training.build import build_trainer


def work(task: Task, listeners: tuple[Listener, ...] = ()) -> str:
    """Train, resume or measure; returns the line to print. Raises UserError for an error that the user can correct."""
    config = from_dict(task.config)
    if task.measure:
        return json.dumps(measure(config, task.measure))
    if task.resume:
        longer = config.steps if config.steps > RunFolder.open(task.folder).resolved().steps else None
        stretch = task.stretch and longer is not None
        resume(
            task.folder,
            command=task.command,
            listeners=listeners,
            total_timesteps=longer,
            stretch_schedules=stretch,
            verbose=0,
        )
    else:
        run_training(config, task.command, listeners=listeners)
    return "trained"


def measure(config: Config, steps: int) -> dict[str, float]:
    """`step`: mean seconds of a training step over `steps` steps; `evaluation`: seconds of an evaluation.

    Steps before learning begins are cheaper, so learning is made to begin after 100 steps. Writes nothing.
    """
    begin = 100
    starts = tuple(min(s, begin) for s in config.learner.learning_starts) or (begin,)
    config = replace(config, learner=replace(config.learner, learning_starts=starts))
    trainer = build_trainer(config)
    workers.configure(trainer.threads)
    run = trainer.config.run
    seeds = episode_seeds(trainer.config, run.n_eval_episodes)
    evaluator = Evaluator(trainer.evaluation_makers, seeds, max_steps=run.max_eval_steps)

    def clock() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    try:
        trainer.begin()
        for _ in range(begin + steps // 4):  # until all members have learned for a while
            trainer.advance()
        began = clock()
        for _ in range(steps):
            trainer.advance()
        trained = clock()
        if config.run.eval_freq:
            evaluator.run(GroupActor(trainer.group), trainer.step)
        return {"step": (trained - began) / steps, "evaluation": clock() - trained}
    finally:
        trainer.close()
        evaluator.close()
