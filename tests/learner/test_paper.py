"""The paper's data: what is read, what is repaired, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES, Category
from learner.paper import (
    BEST,
    BOOTSTRAP_F1,
    CLASS_COUNT_STD,
    CLASS_COUNTS,
    ERROR_STD,
    HUMAN_ROWS,
    LABELS_F1,
    MODELS,
    SPLITS,
    VARIATIONS_F1,
    distinct_seeds,
    read_labelled,
    read_split,
)
from tests.learner.published import BOOTSTRAP_EACH, PROMPT, RELABELLED, category_of, write_published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The made-up data."""
    return write_published(tmp_path / "data")


def replaced(file: Path, before: str, after: str) -> None:
    """Change the first place of a file at which something stands."""
    content = file.read_bytes().decode()
    assert before in content
    file.write_bytes(content.replace(before, after, 1).encode())


class TestRead:
    """What comes out."""

    def test_labelled_rows(self, folder: Path) -> None:
        """Every row below the header is read, and discard means not-harmful."""
        rows = read_labelled(folder, "bootstrap_labeled")
        assert [row.category for row in rows] == [c for c in CATEGORIES for _ in range(BOOTSTRAP_EACH)]
        assert rows[-1].text == "once recipe number 5"

    @pytest.mark.parametrize("split", SPLITS)
    def test_the_repair_gives_a_message_the_label_of_its_block(self, folder: Path, split: str) -> None:
        """The repaired label is the block's, the published one stays known, and only those that differ change."""
        seeds = read_split(folder, split)
        assert [seed.row.category for seed in seeds] == [category_of(i) for i in range(HUMAN_ROWS)]
        assert sum(seed.published is not seed.row.category for seed in seeds) == RELABELLED[split]
        assert all(seed.published is not seed.row.category for seed in seeds[: RELABELLED[split]])

    def test_messages_have_their_own_variations(self, folder: Path) -> None:
        """Message i has the variations of block i, quotes in a text are text, and the header's prompt is no row."""
        seeds = read_split(folder, "topn")
        for i, seed in enumerate(seeds):
            assert '"' in seed.row.text
            assert seed.row.text.endswith(f" message {i}")
            assert [text.split()[-1] for text in seed.variations] == [str(i)]
            assert PROMPT not in seed.variations

    def test_rows_without_a_text_are_left_out(self, folder: Path) -> None:
        """An empty variation does not count, its message does."""
        first = read_split(folder, "random")[0].variations[0]
        replaced(folder / "random-all.tsv", first, " ")
        assert read_split(folder, "random")[0].variations == ()
        assert len(read_split(folder, "random")) == HUMAN_ROWS

    def test_distinct_seeds(self, folder: Path) -> None:
        """A message that stands in two splits counts once."""
        assert len(distinct_seeds(folder)) == 3 * HUMAN_ROWS
        assert len(distinct_seeds(folder, ["random", "coreset"])) == HUMAN_ROWS


class TestRefusals:
    """Every message names the file and the remedy, and never a text."""

    def test_a_missing_file(self, folder: Path) -> None:
        """The file that is missing is named."""
        (folder / "cluster-all.tsv").unlink()
        with pytest.raises(BadConfiguration, match=r"cluster-all\.tsv cannot be read.*--data takes a folder with"):
            read_split(folder, "cluster")

    def test_a_file_that_is_not_text(self, folder: Path) -> None:
        """Bytes that are not UTF-8 are refused without repeating them."""
        (folder / "test_half.tsv").write_bytes(b"id\tsubreddit\ttitle\tcategory\nx\tr\t\xff\tdiscard\n")
        with pytest.raises(BadConfiguration, match=r"test_half\.tsv cannot be read as UTF-8") as refused:
            read_labelled(folder, "test_half")
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__

    @pytest.mark.parametrize("header", ["id\ttitle\tsubreddit\tcategory", "id\ttitle\tcategory", ""])
    def test_other_columns(self, folder: Path, header: str) -> None:
        """Columns in another order, or too few, are not guessed at."""
        (folder / "dev_labeled.tsv").write_text(f"{header}\nx1\tr\tsecret words\tdiscard\n")
        with pytest.raises(BadConfiguration, match=r"dev_labeled\.tsv has not the columns id, subreddit") as refused:
            read_labelled(folder, "dev_labeled")
        assert "secret" not in refused.value.detail

    def test_a_line_that_does_not_fit(self, folder: Path) -> None:
        """A tab too many is found on its line."""
        replaced(folder / "test_half.tsv", "\tr\tsome", "\tr\tsecret\tsome")
        with pytest.raises(BadConfiguration, match=r"test_half\.tsv:2 has 5 fields instead of 4") as refused:
            read_labelled(folder, "test_half")
        assert "secret" not in refused.value.detail

    def test_an_unknown_category(self, folder: Path) -> None:
        """What stands in the place of a category is not repeated: it may be a text."""
        replaced(folder / "test_half.tsv", "\tself-harm", "\tsecret words")
        with pytest.raises(BadConfiguration, match=r"test_half\.tsv:2 has an unknown category.*not-harmful") as refused:
            read_labelled(folder, "test_half")
        assert "secret" not in refused.value.detail

    def test_blocks_that_do_not_pair(self, folder: Path) -> None:
        """A split whose variations belong to other messages is refused."""
        replaced(folder / "topn-all.tsv", "m3\t", "m4\t")
        with pytest.raises(BadConfiguration, match=r"topn-all\.tsv has 99 blocks of variations that do not pair"):
            read_split(folder, "topn")


class TestFigures:
    """The paper's own, as typed from its tables."""

    def test_class_counts_add_up(self) -> None:
        """Table 3's columns have its totals, and its standard deviations are those of the counts."""
        totals = {name: sum(counts) for name, counts in CLASS_COUNTS.items()}
        assert totals == {**dict.fromkeys(SPLITS, 600), "bootstrap": 150, "dev": 150, "test": 2_700}
        for split in SPLITS:
            assert np.std(CLASS_COUNTS[split], ddof=1) == pytest.approx(CLASS_COUNT_STD[split], abs=0.051)

    def test_every_split_and_model_has_its_figures(self) -> None:
        """No cell of Tables 4, 5, 6 and 8 is missing, and what the paper says of the best ones holds."""
        assert len(BOOTSTRAP_F1) == len(MODELS)
        for table in (LABELS_F1, VARIATIONS_F1):
            assert tuple(table) == SPLITS
            assert {len(row) for row in table.values()} == {len(MODELS)}
        assert max(BOOTSTRAP_F1) == BOOTSTRAP_F1[BEST] == 61.6
        assert max(max(row) for row in VARIATIONS_F1.values()) == VARIATIONS_F1["cluster"][BEST] == 71.6
        assert min(ERROR_STD, key=lambda split: ERROR_STD[split]) == "cluster"

    def test_categories_are_in_the_order_of_the_table(self) -> None:
        """The counts follow `CATEGORIES`: emergency is the rare one, not-harmful the largest of the test."""
        assert CATEGORIES[int(np.argmin(CLASS_COUNTS["test"]))] is Category.EMERGENCY_SITUATION
        assert CATEGORIES[int(np.argmax(CLASS_COUNTS["test"]))] is Category.NOT_HARMFUL
