"""What happens to an item: the only place that joins decisions with effects.

Each lane is one module with one class: `submit.Intake`, `score.Scorer`, `ask.Asker`, `distil.Distiller`,
`tick.Ticker`. They commit first and return or yield what to publish; whoever calls them publishes it. A lost
message therefore costs time, never an item.
"""
