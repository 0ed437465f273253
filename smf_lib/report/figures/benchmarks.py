"""Figures of the recorded benchmarks: speed, memory and size beside what else one could use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..analysis.step_cost import METHODS, Benchmark, multiplications, read_benchmark, with_range
from ..text import count, duration, listed, size
from .axes import beside
from .style import COLOURS, GREY, Figure, new_figure, styled, text_colour

SMF, OTHER = COLOURS["smf-kl"], COLOURS["full"]


class NotOnRecord:
    """Stands where a figure of a benchmark would; in a notebook it is one line."""

    def __init__(self, name: str):
        module, device = name.removesuffix("_cuda"), " --device cuda" * name.endswith("_cuda")
        self.line = f"not on record: run python -m benchmarks.{module}{device} --record"

    def __repr__(self) -> str:
        return self.line


def benchmark(results: str | Path, name: str) -> Figure | NotOnRecord:
    """The figure of a benchmark recorded in `results`/benchmarks, or a line that it is missing."""
    record = read_benchmark(Path(results), name)
    return NotOnRecord(name) if record is None else DRAWN[name](record)


def _machine(record: Benchmark) -> str:
    precision, device = record["settings"].get("precision"), record.get("device", "cpu")
    processor = f"{record['hardware']['cpu']}, {record['threads']} threads"
    return (processor if device == "cpu" else device) + (f", {precision}" if precision else "")


def _log_axes(ax: Axes, x_words: Callable[[float], str], y_words: Callable[[float], str]) -> None:
    """Both axes logarithmic, with written values at the ends and powers of ten."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x_words(value)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_words(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True)


@styled
def step_against_rows(record: Benchmark) -> Figure:
    """Time of a step and memory above the bare model against rows, sparse and dense, log axes."""
    figure = new_figure(5.6)
    figure.set_layout_engine("constrained", w_pad=0.12)
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    said = []
    for column, (around, title) in enumerate(
        {"model": "within a model", "layer": "the layer alone"}.items()
    ):
        found = record["results"][around]
        for method, colour, mark in (("smf", SMF, "o"), ("dense", OTHER, "s")):
            times = {int(n): s for n, s in found[method]["median_seconds"].items()}
            peaks = {int(n): m["above_model_bytes"] for n, m in found[method]["memory"].items()}
            name = {"smf": "row-sparse step", "dense": "dense, masked AdamW"}[method]
            for ax, values in ((grid[0, column], times), (grid[1, column], peaks)):
                ax.plot(list(values), list(values.values()), color=colour, marker=mark, label=name)
        tables = {int(n): m["table_bytes"] for n, m in found["smf"]["memory"].items()}
        grid[1, column].plot(
            list(tables), list(tables.values()), color=GREY, ls=":", label="the table itself"
        )
        grid[0, column].set_title(f"time of a step, {title}")
        grid[1, column].set_title("peak memory above the bare model")
        grid[1, column].set_xlabel("rows in the table")
        for row, words in ((0, duration), (1, size)):
            _log_axes(grid[row, column], count, words)
            grid[row, column].set_xticks(list(tables))
            grid[row, column].set_xticks([], minor=True)
        largest = max(found["smf_time_against_smallest"], key=int)
        grown = found["smf_time_against_smallest"][largest]["median"]
        dense = found["dense_time_against_smf"][largest]["median"]
        said.append(
            f"{title}: at {count(int(largest))} rows the sparse step takes {grown:.2f} times what "
            f"it takes at the fewest, and the dense step {dense:.1f} times the sparse one"
        )
    grid[0, 0].legend(frameon=False, fontsize=9)
    grid[1, 0].legend(frameon=False, fontsize=9)
    caption = (
        f"Step time and memory against table size ({_machine(record)}; medians of steps taken in "
        "turn; all axes logarithmic). " + ". ".join(s[0].upper() + s[1:] for s in said) + "."
    )
    return Figure(figure, caption, "Lines of step time and memory against rows. " + caption)


@styled
def step_of_methods(record: Benchmark) -> Figure:
    """Time of a step by method for each batch, with the expectation from multiplications."""
    results = record["results"]
    names = {
        "smf": METHODS["smf"],
        "lora": METHODS["lora"],
        "full": METHODS["full"],
        "smf, plain": f"{METHODS['smf']},\nplain step",
        "lora, plain": "LoRA, plain step",
        "full, plain": "Full finetuning,\nplain step",
    }
    figure = new_figure(0.9 + 0.42 * len(names))
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    said = []
    for ax, (batch, found) in zip(axes, results.items(), strict=True):
        seconds, expected = found["median_seconds"], multiplications(record["settings"], batch)
        for row, name in enumerate(names):
            method = name.partition(",")[0]
            colour = {"smf": SMF, "lora": COLOURS["lora"], "full": OTHER}[method]
            ax.barh(
                row, seconds[name], height=0.62, color=colour, alpha=1 if name == method else 0.5
            )
            end = seconds[name]
            if name == method != "smf":
                share = sum(expected[method]) / sum(expected["smf"]) * seconds["smf"]
                ax.plot([share] * 2, [row - 0.4, row + 0.4], color="#222222", lw=1.4)
                end = max(end, share)
            beside(ax, (end, row), duration(seconds[name]))
        ax.set_title(batch)
        ax.set_xlim(0, 1.25 * max(seconds.values()))
        ax.set_yticks(range(len(names)), list(names.values()))
        ax.set_xticks([])
        ax.spines.bottom.set_visible(False)
        ax.tick_params(axis="y", length=0)
        said.append(
            f"{batch}: sparse memory takes {found['smf_against_lora']['median']:.2f} of the time "
            f"of LoRA and {found['smf_against_full']['median']:.2f} of that of full finetuning, "
            f"all three as the study trains them; against a plain step of the two it is "
            f"{found['smf_against_plain_lora']['median']:.2f} and "
            f"{found['smf_against_plain_full']['median']:.2f}"
        )
    axes[0].invert_yaxis()
    caption = (
        f"Time of a training step, same tokens ({_machine(record)}; medians of steps taken in "
        "turn). "
        + ". ".join(said)
        + ". Line across a bar: what multiplications alone lead one to expect, "
        "from sparse memory's time. Pale: a plain step, as transformers and PEFT alone take it."
    )
    return Figure(figure, caption, "Bars of step time by method. " + caption)


@styled
def layer_against_package(record: Benchmark) -> Figure:
    """How often the package's layer takes the time of ours, for each shape and scope."""
    results = record["results"]
    scopes = {"whole": ("whole layer trained", GREY), "values": ("values trained", SMF)}
    figure = new_figure(1.5 + 0.42 * len(results))
    ax = figure.subplots()
    said = []
    for row, (shape, found) in enumerate(results.items()):
        for offset, (scope, (name, colour)) in zip((-0.19, 0.19), scopes.items()):
            ratio = found["package_against_smf_lib"][scope]["median"]
            ax.barh(row + offset, ratio, height=0.34, color=colour, label=name if not row else None)
            beside(ax, (ratio, row + offset), f"{ratio:.2f}")
            said.append(f"{shape}, {name}: {ratio:.2f}")
    ax.axvline(1, color="#222222", lw=1)
    ax.set_yticks(range(len(results)), list(results))
    ax.set_ylim(len(results) - 0.4, -0.6)
    ax.set_xlim(0, 1.12 * max(ax.get_xlim()[1], 1.2))
    ax.set_xlabel("time of product-key-memory / time of smf_lib (1: equally fast)")
    ax.tick_params(axis="y", length=0)
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper center")
    caption = (
        f"Forward and backward of the memory layer beside the package product-key-memory at equal "
        f"shapes ({_machine(record)}; medians of the ratio over rounds). To the right of the line "
        "smf_lib is faster."
    )
    return Figure(figure, caption, f"Bars of ratios. {'. '.join(said)}.")


@styled
def saved_against_rows(record: Benchmark) -> Figure:
    """Bytes of a row patch against rows touched, beside save_pretrained and LoRA, log axes."""
    sizes = record["results"]["sizes"]
    lora = record["results"]["lora_save_pretrained_bytes"]
    tables = sorted({s["rows_per_table"] for s in sizes})
    figure = new_figure(3.6)
    ax = figure.subplots()
    said = []
    for table, shade, mark in zip(tables, (0.9, 0.6, 0.3), "os^", strict=False):
        some = [s for s in sizes if s["rows_per_table"] == table]
        touched = [s["rows_touched_per_table"] for s in some]
        whole = [s["save_pretrained_bytes"] for s in some]
        ax.plot(
            touched,
            [s["row_patch_bytes"] for s in some],
            color=SMF,
            marker=mark,
            alpha=0.4 + 0.6 * shade,
            ms=10 - 6 * (1 - shade),
            mfc="none",
        )
        ax.plot(touched, whole, color=OTHER, marker=mark, ms=4)
        beside(ax, (touched[-1], whole[-1]), f"{table:,} rows", text_colour(OTHER))
        said.append(
            f"tables of {table:,} rows: {size(some[0]['row_patch_bytes'])} to "
            f"{size(some[-1]['row_patch_bytes'])} as a patch, {size(whole[0])} whole"
        )
    ax.axhline(lora, color=text_colour(COLOURS["lora"]), ls="--", lw=1.2)
    _log_axes(ax, lambda value: f"{round(value):,}", size)
    touched = sorted({s["rows_touched_per_table"] for s in sizes})
    ax.set_xticks(touched)
    ax.set_xticks([], minor=True)
    ax.set_xlim(touched[0] / 1.15, touched[-1] * 1.9)
    ax.set_xlabel("rows touched in each table")
    ax.set_ylabel("bytes on disk")
    handles = [
        ax.plot([], [], color=OTHER, marker="o", ms=4, label="save_pretrained")[0],
        ax.plot([], [], color=text_colour(COLOURS["lora"]), ls="--", label="LoRA r 16")[0],
        ax.plot([], [], color=SMF, marker="o", mfc="none", label="row patch")[0],
    ]
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=3, loc="outside upper center")
    caption = (
        f"What a finetune takes on disk, {sizes[0]['tables']} tables; both axes logarithmic. "
        f"LoRA takes {size(lora)}. Row patches of the three table sizes lie on one line."
        if len(tables) == 3
        else f"What a finetune takes on disk; both axes logarithmic. LoRA takes {size(lora)}."
    )
    return Figure(figure, caption, f"Lines of bytes against rows touched; {'; '.join(said)}.")


@styled
def unread_against_rows(record: Benchmark) -> Figure:
    """Rows that ordinary text does not read, of the table and of those chosen, against its size."""
    found = {int(rows): layers.values() for rows, layers in record["results"].items()}
    settings, tables = record["settings"], sorted(found)

    def share(part: str) -> list[float]:
        """Per cent, the mean of the layers."""
        return [100 * mean(layer[part] for layer in found[rows]) for rows in tables]

    chosen = COLOURS["smf-tfidf"]
    lines = {
        "all rows": (share("rows_unread_by_background"), GREY, "-", "s"),
        "rows chosen": (share("chosen_unread_by_background"), chosen, "-", "o"),
        "... nor by other prose": (share("chosen_unread_by_both"), chosen, ":", "o"),
    }
    figure = new_figure(3.6)
    ax = figure.subplots()
    for name, (shares, colour, dashes, mark) in lines.items():
        ax.plot(tables, shares, color=colour, ls=dashes, marker=mark)
        beside(ax, (tables[-1], shares[-1]), name, text_colour(colour))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    ax.set_xticks(tables)
    ax.set_xlim(tables[0] / 1.3, tables[-1] * 6)
    ax.set_xlabel("rows in the table")
    ax.set_ylabel("% never read by the background")
    grown = [
        f"{size:,} rows {one:.2g} % of the table and {two:.2g} % of the chosen rows"
        for size, one, two in zip(tables, *(shares for shares, *_ in list(lines.values())[:2]))
    ]
    tokens = settings["tokens"]
    first, *_, last = share("chosen_unread_by_background")
    caption = (
        f"Rows that {tokens['background']:,} tokens of background never read, in tables of "
        f"different size: of all rows, and of the {settings['rows_per_step']} that TF-IDF chooses "
        f"in a step; dotted, those that {tokens['prose']:,} tokens of other prose do not read "
        f"either ({settings['model']}, mean of {len(found[tables[0]])} layers). Of the chosen rows "
        f"the background never reads {first:.2g} % at {tables[0]:,} rows and {last:.2g} % at "
        f"{tables[-1]:,}."
    )
    return Figure(figure, caption, f"Lines of shares against rows; of {'; of '.join(grown)}.")


SCORED = {"exam": "exam (options scored)", "knowledge": "knowledge (answers generated)"}
LMS = {"shared": ("smf_lib", SMF), "hflm": ("lm-eval's HFLM", GREY)}


@styled
def scoring_against_harness(record: Benchmark) -> Figure:
    """Time of measuring the same questions with our model class for lm-eval and with its own."""
    results, settings = record["results"], record["settings"]
    figure = new_figure(1.3 + 0.6 * len(results))
    ax = figure.subplots()
    said, ratios, lengths = [], [], []
    for row, (name, found) in enumerate(results.items()):
        against = found["hflm_against_shared"]
        for offset, (lm, (label, colour)) in zip((-0.19, 0.19), LMS.items()):
            seconds = found["median_seconds"][lm]
            lengths.append(seconds)
            ax.barh(row + offset, seconds, height=0.34, color=colour, label=None if row else label)
            times = f", {against['median']:.1f} times as long" if lm == "hflm" else ""
            beside(ax, (seconds, row + offset), f"{duration(seconds)}{times}")
            said.append(f"{name}, {label}: {duration(seconds)}")
        ratios.append(
            f"{against['median']:.1f} times as long on the {name} questions "
            f"({against['least']:.1f} to {against['most']:.1f})"
        )
    ax.set_yticks(range(len(results)), [SCORED[name] for name in results])
    ax.set_ylim(len(results) - 0.4, -0.6)
    ax.set_xlim(0, 1.4 * max(lengths))
    ax.set_xticks([])
    ax.spines.bottom.set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper center")
    outcomes = listed(
        f"{found['same_outcome']} of {found['questions']} on the {name} questions"
        for name, found in results.items()
    )
    caption = (
        f"Time of scoring the same questions on the same model ({settings['model']}, "
        f"{_machine(record)}; medians of {settings['rounds']} rounds taken in turn). lm-eval's own "
        f"class, with {settings['hflm_batch_size']} texts a batch, takes {listed(ratios)}. "
        f"Equal outcomes: {outcomes}."
    )
    return Figure(figure, caption, f"Bars of time; {'; '.join(said)}. {caption}")


STEPS = {
    "floor": ("frozen, gradient down to the memory", GREY),
    "ln_tuning": ("layer-norm tuning", COLOURS["ln-tuning"]),
    "smf": ("sparse memory", SMF),
    "lora": ("LoRA r 16", COLOURS["lora"]),
    "full": ("full finetuning", OTHER),
}
LAYERS = {
    "rows_copied": ("every row copied as often as read", GREY),
    "read": ("read: embedding bag", SMF),
    "read_by_kernel": ("read: kernel", SMF),
    "read_by_csr": ("read: torch.sparse CSR", OTHER),
    "smf": ("step: sparse memory", SMF),
    "smf_plain": ("step: without kernels", SMF),
    "sparse_adam": ("step: SparseAdam", OTHER),
}


@styled
def engine_beside_bounds(record: Benchmark) -> Figure:
    """Time of a step beside other methods and the floor, of a layer beside torch's own ways."""
    step, layer = record["results"]["step"], record["results"]["layer"]
    settings = record["settings"]
    few, many = settings["rows"]
    panels = [(f"a step, {settings['sequences']} x {settings['length']} tokens", step, "", STEPS)]
    panels += [
        (f"the layer alone, {count(rows)} rows", layer, f", {rows} rows", LAYERS)
        for rows in (few, many)
    ]
    figure = new_figure(7.2)
    grid = figure.subplots(3, 1, height_ratios=[len(STEPS), len(LAYERS) - 2, len(LAYERS) - 2])
    said = []
    for ax, (title, found, size_of, names) in zip(grid, panels, strict=True):
        seconds = found["median_seconds"]
        shown = [name for name in names if f"{name}{size_of}" in seconds]
        for row, name in enumerate(shown):
            label, colour = names[name]
            ax.barh(row, seconds[f"{name}{size_of}"], height=0.62, color=colour)
            beside(ax, (seconds[f"{name}{size_of}"], row), duration(seconds[f"{name}{size_of}"]))
            said.append(f"{title}, {label}: {duration(seconds[f'{name}{size_of}'])}")
        ax.set_title(title)
        ax.set_xlim(0, 1.25 * max(seconds.values()))
        ax.set_yticks(range(len(shown)), [names[name][0] for name in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xticks([])
        ax.spines.bottom.set_visible(False)
        ax.tick_params(axis="y", length=0)
    against = listed(
        f"{with_range(ratio)} of {STEPS[name][0]}" for name, ratio in step["smf_against"].items()
    )
    grown, sparse_adam, copied = (
        with_range(layer[name])
        for name in ("smf_growth", "smf_against_sparse_adam", "smf_against_rows_copied")
    )
    caption = (
        f"The engine beside its bounds ({_machine(record)}; medians of steps taken in turn, with "
        "the least and the most of any round; random weights). A step of sparse memory takes, as a "
        f"ratio of times, {against}. The layer alone, at {count(many)} rows, takes {grown} times "
        f"what it takes at {count(few)}, {sparse_adam} of SparseAdam and {copied} times as long as "
        "a copy of every row as often as it is read."
    )
    return Figure(figure, caption, f"Bars of time; {'; '.join(said)}.")


DRAWN = {
    "on_device": engine_beside_bounds,
    "on_device_cuda": engine_beside_bounds,
    "step_vs_table": step_against_rows,
    "step_vs_methods": step_of_methods,
    "layer_vs_pkm": layer_against_package,
    "saved_size": saved_against_rows,
    "rows_read": unread_against_rows,
    "scoring_vs_hflm": scoring_against_harness,
}
