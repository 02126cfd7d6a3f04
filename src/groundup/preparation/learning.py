"""A tokenizer learnt from the corpus, in a bounded time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from groundup.data.reading import cut_text
from groundup.data.sources import Corpus
from groundup.preparation.splitting import ByHash, LastPart
from groundup.preparation.watch import Watch
from groundup.text.tokenizer import Learner, Tokenizer

# Characters that merges are learnt from, at most: taken evenly from the whole corpus, by the place in its files, or
# from its beginning where its size is not known. Twenty times as many characters would hardly change the frequent
# words, while the counts of rare ones fill the memory.
LEARN_CHARS = 100_000_000

STRETCH = 1 << 14  # characters handed over at a time; the learner's library holds some hundreds of such stretches


def learnt(learner: Learner, corpus: Corpus, rule: ByHash | LastPart, watch: Watch) -> Tokenizer:
    """The tokenizer of the training text, or of all text where the learner needs that."""
    seen = _Seen(corpus, rule, learner.needs_all_text, watch)
    tokenizer = learner.learn(seen.stretches())
    if seen.enough:
        watch.say(f"learnt from the first {seen.taken / 1e6:,.0f} million characters")
    elif seen.passed_over:
        whole = seen.taken + seen.passed_over
        watch.say(
            f"learnt from {seen.taken / 1e6:,.0f} of {whole / 1e6:,.0f} million characters, evenly from all of it"
        )
    return tokenizer


class _Seen:
    """What a learner gets to see, and how much it does not."""

    def __init__(self, corpus: Corpus, rule: ByHash | LastPart, everything: bool, watch: Watch) -> None:
        self._corpus, self._rule, self._everything, self._watch = corpus, rule, everything, watch
        self.taken = self.passed_over = 0  # characters

    @property
    def enough(self) -> bool:
        """Whether nothing further will be taken: known beforehand only where the size of the corpus is not."""
        return not self._everything and not self._corpus.size and self.taken > LEARN_CHARS

    def stretches(self) -> Iterator[str]:
        for document in self._corpus:
            if self.enough:
                return
            for split, chunks in self._rule.parts(document):
                if split != "train" and not self._everything:
                    continue
                for chunk in chunks:
                    self._watch(self._corpus.at if self._corpus.size else self.taken)
                    for stretch in cut_text(chunk, STRETCH):
                        if self._everything or self.taken <= self._allowance():
                            self.taken += len(stretch)
                            yield stretch
                        else:
                            self.passed_over += len(stretch)

    def _allowance(self) -> float:
        """How much may be taken up to here, so that the end of the corpus gets its share as well."""
        size = self._corpus.size
        return LEARN_CHARS * self._corpus.at / size if size else LEARN_CHARS
