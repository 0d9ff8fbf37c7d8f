"""The fault campaign: a stream of items through all lanes as real processes, while everything breaks in turn.

python -m tests.acceptance.faults --seed 1 --faults 200 --items 5000 --minutes 30

stream    the items, and the producer process that sends them, again until it has its receipt
people    the process that labels finished items
link      a line to a broker that was given, which can be cut
clock     the wrong clock of a second host
plant     servers, workers, beats, producer, people and a simulated LLM, kept running
kinds     what can go wrong, and when it counts as over
campaign  one run: faults in a seeded order, invariants after each, everything counted at the end
"""
