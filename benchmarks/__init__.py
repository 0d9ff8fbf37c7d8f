"""How fast datashunt is here: real servers, real worker processes, generated texts, loopback only.

`python -m benchmarks` runs them all with reduced counts, `--full` with those that docs/benchmarks.md gives;
`python -m benchmarks.NAME` runs one. Each stops all that it started, also on Ctrl-C.

    texts       generated texts                 figures    what a benchmark found, as table, JSON and Markdown
    command     the options of all of them      service    servers, a bundle, a score worker
    plain       the model's own batched loop    bare       PyTorch's loop over the batches of a training
    lessons     distillations of a long life    llm_service   the LLM lane: an endpoint, four workers
    llm_calls   the lane's HTTP alone           lanes      both lanes in processes, with stand-ins for the models

The benchmarks: submit, score_lane, llm_lane, llm_faults, memory, distil, budget.

Of certificates, each run by itself: `validity`, whether simulated `lives` keep the promise, and `power`, what it costs
on `scored` streams, beside `bargain`.
"""
