# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs, one after another: commands to the engine and its answers, on a timer in the GUI, blocking in `blender -b`.

State lives in this module, not in the file: it survives undo and the loading of another file. Groups are found again
by `session_uid`, never kept as references, which undo would invalidate.
"""

from __future__ import annotations

import logging
import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from . import environment, preferences
from .client import EngineClient, protocol
from .errors import UserError

log = logging.getLogger(__name__)

PUMP_SECONDS = 0.1
MAKING = "Make the engine's environment"


@dataclass
class Task:
    """One thing the user asked for: commands that run one after another, and what becomes of their results."""

    title: str
    commands: list[protocol.Message]
    on_result: Callable[[dict[str, Any]], str]  # takes the last command's result, returns how it went, as a sentence
    group_uid: int = 0  # session_uid of the group it belongs to
    on_stop: Callable[[], None] = lambda: None  # what becomes of what was done before it was cancelled or failed
    light: str = "green"  # of what it found out, where it finishes
    state: str = "waiting"  # then "running", then "finished", "cancelled" or "failed"
    message: str = "Waiting for the jobs before it"  # what is happening, then how it ended
    factor: float = 0.0  # 0 to 1
    warnings: list[str] = field(default_factory=list)
    _left: tuple[str, str] = ("", "")  # the file that had the group, when another was opened, and the group's name
    _id: str = ""
    _cancelling: bool = False
    _error: str = ""
    _result: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def pending(self) -> bool:
        return self.state in ("waiting", "running")


task: Task | None = None  # the one that runs, or the last that ran
maker: environment.EnvironmentMaker | None = None  # likewise
waiting: list[Task] = []  # those that run after `task`
ended: dict[int, Task] = {}  # the last one of each group, by its `group_uid`
engine: protocol.Engine | None = None  # what the engine last said of itself
_client: EngineClient | None = None
_drawn: Any = None  # what the screen shows of it


def busy() -> bool:
    return (task is not None and task.running) or making()


def making() -> bool:
    """Whether the engine's environment is being made."""
    return maker is not None and not maker.finished


def progress() -> tuple[float, str, str]:
    """Of what runs now: the share that is done, 0 to 1, what is happening, and what the user asked for."""
    if maker is not None and not maker.finished:
        return maker.factor, maker.message, MAKING
    assert task is not None
    return task.factor, task.message, task.title + (f", {len(waiting)} waiting" if waiting else "")


def task_of(tree: bpy.types.NodeTree) -> Task | None:
    """A group's task that runs or waits."""
    return next((each for each in _tasks() if each.pending and each.group_uid == tree.session_uid), None)


def _tasks() -> list[Task]:
    return waiting if task is None else [task, *waiting]


def start(new_task: Task) -> None:
    """Begin a task, after those that were asked for before; in `blender -b`, wait for its end, printing its progress.

    Raises:
        UserError: there is no engine, or its environment is being made.
    """
    if making():
        raise UserError("The engine's environment is being made. Wait for it to end, or cancel it.")
    if busy():
        waiting.append(new_task)
        return
    _begin(new_task)
    _pump_until_done()


def cancel(tree: bpy.types.NodeTree | None = None) -> None:
    """Ask a group's task, or what runs now, to end after its current frame; what does not compute yet ends at once."""
    chosen = task_of(tree) if tree is not None else task
    if chosen is not None and chosen in waiting:
        waiting.remove(chosen)
        _end(chosen, "cancelled")
    elif chosen is not None and chosen.running and _client is not None:
        chosen._cancelling = True
        chosen.message = "Cancelling after this frame"
        _client.cancel(chosen._id)
    elif tree is None and maker is not None and not maker.finished:
        maker.cancel()


def make_environment() -> None:
    """Begin to make the engine's environment; in `blender -b`, also wait for its end.

    Raises:
        UserError: something else runs.
    """
    global maker
    if busy():
        raise UserError("Another job is running. Wait for it to end, or cancel it.")
    stop_engine()
    maker = environment.EnvironmentMaker(
        preferences.environment_folder(), preferences.log_path(), torch_index=preferences.torch_index()
    )
    _pump_until_done()


def stop_engine() -> None:
    """End the engine process; the next task starts a new one."""
    global _client, engine
    if _client is not None:
        _client.shutdown()
    _client = engine = None


def heard_from(python: Path) -> bool:
    """Whether what is known of the engine, or how its last task ended, is about the engine on this Python."""
    return _client is not None and _client.python == python


def find_group(uid: int) -> bpy.types.NodeTree | None:
    """The group of a task, where the file still has it."""
    return next((tree for tree in bpy.data.node_groups if uid and tree.session_uid == uid), None)


def _leave_file(*_: Any) -> None:
    """Another file is about to be opened."""
    for each in _tasks():
        group = find_group(each.group_uid)
        if group is not None:
            each._left = bpy.data.filepath, group.name


def _enter_file(*_: Any) -> None:
    """A file was opened: a task's own again, or reverted, has its group under another uid."""
    for each in _tasks():
        path, name = each._left
        group = bpy.data.node_groups.get(name)
        if group is not None and bpy.data.filepath == path:
            each.group_uid = group.session_uid


def pump() -> float | None:
    """Take in what the engine said; a timer of Blender's. Returns the seconds to its next call."""
    if bpy.app.is_job_running("RENDER") or _in_a_stroke():
        return PUMP_SECONDS  # a render reads the node groups that results would be wired into
    if maker is not None and not maker.finished:
        maker.poll()
        if maker.failed:
            pop_up(MAKING, maker.error)
    if _client is not None:
        for id, message in _client.drain():
            if task is not None and id == task._id:
                _take(_client, task, message)
    while waiting and not busy():
        _begin_next()
    redraw()
    return PUMP_SECONDS if busy() else None


def redraw() -> None:
    """Draw anew whatever shows progress, where there is news; without a screen, the status bar would crash Blender."""
    global _drawn
    made = maker and (maker.finished, maker.message, maker.factor)
    state = (task and (task.title, task.state, task.message), made, len(waiting))
    manager = bpy.context.window_manager
    if bpy.app.background or manager is None or state == _drawn:
        return
    _drawn = state
    for window in manager.windows:
        for area in window.screen.areas:
            if area.type in {"NODE_EDITOR", "CLIP_EDITOR", "SEQUENCE_EDITOR", "PREFERENCES"}:
                area.tag_redraw()
        # The only way to have the status bar drawn; `status_text_set` would take out another add-on's drawing, too
        window.workspace.status_text_set_internal(None)


def _in_a_stroke() -> bool:
    """Whether the artist is drawing or dragging: an undo step in the middle of a brush stroke crashes Blender."""
    manager = bpy.context.window_manager
    windows = manager.windows if manager is not None else ()
    running = [operator for window in windows for operator in window.modal_operators]
    return any(operator.bl_options & {"BLOCKING", "MACRO"} for operator in running)  # nodes are moved by a macro


def _running_client() -> EngineClient:
    global _client
    python = preferences.engine_python()
    if _client is not None and not (_client.alive and _client.python == python):
        stop_engine()
    if _client is None:
        _client = EngineClient(python, environment.core_folder(), preferences.log_path(), variables=_variables())
    return _client


def _variables() -> dict[str, str]:
    """The engine reads colour spaces as this Blender does, unless the user has a configuration of their own."""
    config = Path(bpy.utils.system_resource("DATAFILES", path="colormanagement")) / "config.ocio"
    return {} if "OCIO" in os.environ or not config.is_file() else {"OCIO": str(config)}


def _begin(new_task: Task) -> None:
    global task
    warm, client = _client, _running_client()
    task = new_task
    task.state, task.message = "running", "Working" if client is warm else "Starting the engine"
    _send_next(client, task)


def _begin_next() -> None:
    """Begin what has waited the longest; where the engine does not start any more, it has failed."""
    following = waiting.pop(0)
    try:
        _begin(following)
    except UserError as error:
        following._error = str(error)
        _end(following, "failed")


def _send_next(client: EngineClient, task: Task) -> None:
    task._result = {}
    task._id = client.send(task.commands.pop(0))


def _take(client: EngineClient, task: Task, message: protocol.Message) -> None:
    global engine
    match message:
        case protocol.Engine():
            engine = message
        case protocol.Progress():
            task.factor = message.done / message.total if message.total else 0.0
            task.message = describe_progress(message)
        case protocol.Warning():
            log.warning("%s: %s", task.title, message.message)
            task.warnings.append(message.message)
        case protocol.Result():
            task._result = message.data
        case protocol.Error():
            task._error = message.message
        case protocol.Done():
            if message.outcome != "finished" or not task.commands:
                _end(task, message.outcome)
            elif task._cancelling:
                _end(task, "cancelled")
            else:
                _send_next(client, task)


def _end(task: Task, outcome: str) -> None:
    ended[task.group_uid] = task
    task.state, images = outcome, len(bpy.data.images)
    if outcome == "finished":
        try:
            task.message = task.on_result(task._result)
        except UserError as error:
            task.state, task.message = "failed", str(error)
        except Exception as error:  # a bug must not stop the timer in the middle of a user's day
            log.exception("%s", task.title)
            task.state, task.message = "failed", f"The results cannot be shown ({error!r}); see the system console."
    elif outcome == "cancelled":
        task.message = "Cancelled"
    else:
        task.message = task._error or "The engine failed without giving a reason; see its log."
    if outcome != "finished" and task._id:  # else it never began
        try:
            task.on_stop()
        except Exception:  # how it ended is what the user is told
            log.warning("%s", task.title, exc_info=True)
    group = find_group(task.group_uid)
    if group is not None:
        group.bgm.say(task.message, task.light if task.state == "finished" else task.state)
        push_undo(task.title, needed=len(bpy.data.images) != images)
    is_unseen = group is None and task.group_uid and task.state == "finished"  # no panel shows it
    if task.state == "failed" or is_unseen:
        pop_up(task.title, task.message)


def pop_up(title: str, message: str) -> None:
    """Say how it ended: the user may be looking elsewhere by now. In `blender -b` the operator reports it."""
    windows = bpy.context.window_manager.windows if bpy.context.window_manager else ()
    if bpy.app.background or not windows:
        return

    def draw(popup: bpy.types.Menu, context: bpy.types.Context) -> None:
        for paragraph in message.splitlines():
            for line in textwrap.wrap(paragraph, 90):
                popup.layout.label(text=line)

    with bpy.context.temp_override(window=windows[0]):
        bpy.context.window_manager.popup_menu(draw, title=title, icon="ERROR")


def push_undo(message: str, needed: bool) -> None:
    """An undo step for what a task did, which no operator makes for it; left out where that keeps what can be redone.

    Args:
        needed: a datablock was made. One that is in no undo step is gone after the next redo, and Blender crashes over
            what still points to it.
    """
    windows = bpy.context.window_manager.windows if bpy.context.window_manager else ()
    if not bpy.app.background and windows:
        with bpy.context.temp_override(window=windows[0]):
            if needed or not bpy.ops.ed.redo.poll():
                bpy.ops.ed.undo_push(message=message)


def describe_progress(step: protocol.Progress) -> str:
    """ "Matting: 12 of 100 frames, 3.4 a second, 26 s left"."""
    if step.stage == "plate":  # counts its steps, not frames
        return f"Making the plate: {100 * step.done // max(step.total, 1)} %"
    if step.stage == "deliver":
        return f"Delivering: {step.done} of {step.total} frames"
    if not step.total:
        return "Opening the footage"
    words = f"Matting: {step.done} of {step.total} frames"
    if step.fps:
        words += f", {step.fps:.1f} a second"
    if step.seconds_left >= 1:
        words += f", {describe_seconds(step.seconds_left)} left"
    return words


def describe_seconds(seconds: float) -> str:
    """ "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _pump_until_done() -> None:
    if not bpy.app.background:
        if not bpy.app.timers.is_registered(pump):
            bpy.app.timers.register(pump, persistent=True)
        return
    shown, shown_at = "", 0.0
    try:
        while pump() is not None:
            current = progress()[1]
            if current != shown and time.monotonic() - shown_at > 1.0:
                print(current, flush=True)
                shown, shown_at = current, time.monotonic()
            time.sleep(0.02)
    except KeyboardInterrupt:
        cancel()
        raise


def register() -> None:
    for handlers, handler in _HANDLERS:
        handlers.append(handler)


def unregister() -> None:
    global task, maker
    for handlers, handler in _HANDLERS:
        handlers.remove(handler)
    if bpy.app.timers.is_registered(pump):
        bpy.app.timers.unregister(pump)
    waiting.clear()
    ended.clear()
    cancel()
    stop_engine()
    task = maker = None  # this module stays in memory, and nothing would end them any more


_HANDLERS = (
    (bpy.app.handlers.load_pre, bpy.app.handlers.persistent(_leave_file)),
    (bpy.app.handlers.load_post, bpy.app.handlers.persistent(_enter_file)),
)
