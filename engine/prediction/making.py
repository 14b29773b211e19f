"""The probability is made: by this process, by the workers of a scheduler, or one part of it."""

from engine.base.console import Stopwatch
from engine.prediction.execute import Method, execute, executeTasks
from engine.prediction.journal import beginShared, openResult
from engine.prediction.run import Run, openNetwork
from engine.prediction.shared import agreeDigests
from engine.prediction.spread import Spread, executeByWorkers
from engine.prediction.statistics import measureRequest
from engine.prediction.tiles import Stream
from engine.prediction.told import describeParts
from engine.volumes.scale import Scale


def makeWhole(method: Method, run: Run, scale: Scale, by: Stream | Spread) -> None:
    """Predict what is missing of a result, and give it its name.

    Parameters
    ----------
    method : Method
        Steps of functions.py.
    run : Run
    scale : Scale
        What the z-score is made with.
    by : Stream or Spread
        The network of this process, or workers.
    """
    request, job = run.request, run.makeJob(scale)
    with openResult(request.nameOutput, request.shape, run.header, run.record, run.isGoingOn) as result:
        if run.sharing and run.sharing.isSpread:
            executeByWorkers(method, run, job, by)
        else:
            execute(method, request.volume, job, result, by)


def makePart(method: Method, run: Run, clock: Stopwatch) -> list[str]:
    """Predict one part of a result that several processes make; tells what is missing then.

    Parameters
    ----------
    method : Method
        Steps of functions.py.
    run : Run
        Of a part.
    clock : Stopwatch
        Gets the laps 'statistics' and 'prediction'.
    """
    request = run.request
    if run.isFinished:
        return []
    if run.missing():
        stream = openNetwork(run)
        found, _ = measureRequest(request, by=run.walker())
        clock.lap("statistics")
        beginShared(request.nameOutput, request.shape, run.header, run.record)
        job = run.makeJob(found.scale)
        executeTasks(method, request.volume, job, stream, run.backend.device, run.tasks)
        clock.lap("prediction")
    if run.isFirst:
        agreeDigests(request, isKnown=False)
    return describeParts(run)
