"""Fine-tuning on the defender's clean images, the second half of most repairs."""
from engine.training import evaluate, train_epoch


def fine_tune(run, model, batches, test, optimizer, epochs, amp):
    """Train `model` for `epochs` of the Run, tested on TestImages after each; returns the last TestScore."""
    after = None
    for epoch in run.epochs(epochs, model=model, optimizer=optimizer):
        train_score = train_epoch(model, batches, optimizer, amp)
        after = evaluate(model, test)
        run.log(epoch, optimizer.param_groups[0]["lr"], train_score, after)
    return after or evaluate(model, test)  # none yet where the last epoch was done before a stop
