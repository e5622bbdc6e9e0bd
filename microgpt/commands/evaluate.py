"""`microgpt eval`: measure how well a saved model predicts a text."""

from __future__ import annotations

import argparse
import math
import time

from microgpt import checkpoint, data
from microgpt.commands import flags, saved

SUMMARY = "measure how well a saved model predicts a text"
EXAMPLES = """\
examples:
  microgpt eval names                     on the text that the run held out, or else on its own
  microgpt eval names --data other.txt    on another text
  microgpt eval names --threads 2

A token is a character or the end of a document. The loss is the mean of -log(probability)
over all tokens, in nats; divided by log(2) it is in bits, and exp(loss) is the perplexity: as
if the model chose among so many characters each time. Of a document longer than the
model's block size, the beginning counts.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of eval."""
    saved.add_directory(command)
    flags.add_settings(command, ("data", "engine", "threads", "keep"), data="the run's text")


def run(options: argparse.Namespace) -> int:
    """Evaluate as the command line asks and print the result; return the exit status."""
    given = flags.given(options)
    file = saved.file(options.directory, given.get("keep", "best"))
    content = checkpoint.read(file, given.get("engine"))
    settings = saved.settings(content)
    size: int = vars(content.config)["block_size"]
    if "data" in given:
        name = given["data"]
        documents = data.documents(name, settings.split, size)
    else:
        corpus = saved.corpus(content, file)
        name = "the held-out documents" if corpus.held_out else "the training text"
        documents = corpus.held_out or corpus.training
    tokens = [saved.encoded(text, content.tokenizer, settings.split, size) for text in documents]
    model = checkpoint.model_of(content, given.get("engine"))
    start = time.perf_counter()
    result = model.evaluate(tokens, threads=given.get("threads", 1))
    seconds = time.perf_counter() - start
    print(f"text:             {name}, {len(documents):,} documents")
    print(f"tokens:           {result.tokens:,}")
    print(f"nats a token:     {result.loss:.4f}")
    print(f"bits a character: {result.loss / math.log(2):.4f}")
    print(f"perplexity:       {_perplexity(result.loss)}")
    print(f"seconds:          {seconds:.3f} ({result.tokens / seconds:,.0f} tokens a second)")
    return 0


def _perplexity(loss: float) -> str:
    try:
        return f"{math.exp(loss):.4f}"
    except OverflowError:
        return "inf"
