"""Wrong values, each refused in one line that names parameter, value and remedy, before long work.

One table a place where values come from: fields and files of profiles, arguments of runs and of
notebooks, settings of a memory, folders of models.
"""

import json
import math
import resource
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers_hub import medmcqa_row, trivia_row, write_data

from smf_lib import SparseMemoryConfig
from smf_lib.report.book.plan import check_pages
from smf_lib.study import Study
from smf_lib.study.exams import build_exam
from smf_lib.study.model_cache import cached_folder
from smf_lib.study.models import resolve_model
from smf_lib.study.profiles import PROFILE_DIR, load_profile, load_profiles
from smf_lib.study.records.results import records_folder
from smf_lib.study.settings import ModelSettings
from smf_lib.study.tasks.hub import locate

INF, NAN = math.inf, math.nan
FIELDS = [  # a field of profile smoke, a value that cannot be, what the line says
    ("name", 5, "name = 5"),
    ("name", "a b", "'a b' must be 1 to 100"),
    ("title", 5, "title = 5"),
    ("description", ["a"], r"description = \['a'\]"),
    ("means_nothing", "yes", "means_nothing = 'yes'"),
    ("colour", "red", "colour = 'red': Extra"),
    ("model.source", 5, "model.source = 5"),
    ("model.sauce", "x", "model.sauce = 'x': Extra"),
    ("model", None, "model = None"),
    ("imports", "mine.py", "imports='mine.py' must be a list"),
    ("imports", ["nosuch.py"], "nosuch.py does not exist"),
    ("exam.name", "nosuch", "exam.name='nosuch' is unknown; choose one of"),
    ("exam.train_rows", 0, "exam.train_rows = 0: .*greater"),
    ("exam.train_rows", "many", "exam.train_rows = 'many'"),
    ("exam.train_rows", True, "exam.train_rows = True"),
    ("exam.train_rows", 1.5, "exam.train_rows = 1.5"),
    ("exam.test_rows", -1, "exam.test_rows = -1"),
    ("exam.seed", 2**32, "exam.seed = 4294967296: .*less than"),
    ("exam.seed", -1, "exam.seed = -1"),
    ("probes.prose_articles", 0, "probes.prose_articles = 0"),
    ("probes.knowledge_shots", -1, "probes.knowledge_shots = -1"),
    ("probes.self_text_tokens", 1, "probes.self_text_tokens = 1"),
    ("probes.self_text_seed", "a", "probes.self_text_seed = 'a'"),
    ("probes.wikitext", {"window": 5}, "probes.wikitext.window = 5: .*multiple of 2"),
    ("probes.triviaqa", {"shots": 9}, "probes.triviaqa.shots = 9"),
    ("background.sequences", 0, "background.sequences = 0"),
    ("background.tokens", 1, "background.tokens = 1"),
    ("background.seed", False, "background.seed = False"),
    ("background.text", {"rows": 5}, "background.text.rows=5: .*leave rows out"),
    ("training.epochs", 0, "training.epochs = 0"),
    ("training.batch_size", 0, "training.batch_size = 0"),
    ("training.gradient_accumulation", "2", "training.gradient_accumulation = '2'"),
    ("training.max_length", 7, "training.max_length = 7"),
    ("training.warmup_ratio", 1, "training.warmup_ratio = 1"),
    ("training.warmup_ratio", NAN, "training.warmup_ratio = nan: .*finite"),
    ("training.warmup_steps", -1, "training.warmup_steps = -1"),
    ("training.max_grad_norm", 0, "training.max_grad_norm = 0"),
    ("training.max_grad_norm", INF, "training.max_grad_norm = inf: .*finite"),
    ("training.precision", "fp8", "training.precision = 'fp8'"),
    ("training.checkpoint_every", 0, "training.checkpoint_every = 0"),
    ("retrofit", {"text": {"min_characters": 0}}, "retrofit.text.min_characters = 0"),
    ("evaluation.split", "train", "evaluation.split = 'train'"),
    ("evaluation.probes", ["nosuch"], "probe 'nosuch' is unknown; choose from"),
    ("evaluation.probes", "prose", "evaluation.probes = 'prose'"),
    ("evaluation.batch_tokens", 63, "evaluation.batch_tokens = 63"),
    ("evaluation.lm_eval_tasks", ["a/x.yaml", "b/x.yaml"], "name two tasks alike"),
    ("memory.num_subkeys", 5000, "num_subkeys=5000 .*at most 4096"),
    ("memory.num_subkeys", 8.0, "num_subkeys=8.0 must be a whole number"),
    ("memory.num_heads", 10**7, "num_heads=10000000 is too large"),
    ("memory.top_k", 99, "top_k=99 must be at most num_subkeys"),
    ("memory.key_dim", 7, "key_dim=7 must be even"),
    ("memory.rule", "nosuch", "rule='nosuch' is unknown"),
    ("memory.layers", [1, 1], r"layers=\[1, 1\] must be"),
    ("memory.initial_scale", "big", "initial_scale='big' must be a number"),
    ("memory.rows_per_step", 0, "rows_per_step=0"),
    ("memory.values_dtype", "float16", "values_dtype='float16' is unknown; choose one of"),
    ("memory.max_grad_norm", -1.0, "max_grad_norm=-1.0"),
    ("seeds", [], "seeds = "),
    ("seeds", [0, 0], r"seeds=\[0, 0\] must differ"),
    ("seeds", [2**32], r"seeds.0 = 4294967296"),
    ("seeds", [-1], "seeds.0 = -1"),
    ("seeds", [True], "seeds.0 = True"),
    ("seeds", 0, "seeds = 0"),
    ("keep", "all", "keep = 'all'"),
    ("methods", {}, "methods = "),
    ("methods", ["base"], "methods = "),
    ("methods.lora.label", "", "methods.lora.label = ''"),
    ("methods.lora.label", "x" * 200, "at most 120"),
    ("methods.lora.kind", "half", "methods.lora.kind = 'half'"),
    ("methods.lora.peft_type", "LORRA", "peft_type='LORRA' is unknown"),
    ("methods.lora.peft_type", None, "kind='peft' and peft_type=None do not fit"),
    ("methods.lora.settings", {"rank": 5}, r"unknown fields \['rank'\]"),
    ("methods.lora.settings.r", 0, "settings.r=0 must be"),
    ("methods.lora.settings.r", 4.5, "settings.r=4.5 must be"),
    ("methods.lora.learning_rate", None, "learning_rate=None: .*all others need one"),
    ("methods.lora.learning_rate", 0, "learning_rate=0.* must be positive"),
    ("methods.lora.learning_rate", INF, "methods.lora.learning_rate.* = inf: .*finite"),
    ("methods.lora.learning_rate", NAN, "methods.lora.learning_rate.* = nan"),
    ("methods.lora.learning_rate", True, "methods.lora.learning_rate.* = True"),
    ("methods.lora.learning_rate", "fast", "methods.lora.learning_rate.* = 'fast'"),
    ("methods.lora.learning_rate", [], r"learning_rate=\[\] must be"),
    ("methods.lora.learning_rate", [1e-3, 1e-3], "one or several different numbers"),
    ("methods.lora.seeds", [1, 1], r"seeds=\[1, 1\] must differ"),
    ("methods.lora.start", "nosuch", "start='nosuch'"),
    ("methods.lora.stage", "retrofit", "stage='retrofit'"),
    ("exam.name", ["icd10"], r"exam.name = \['icd10'\]"),
    ("exam.name", None, "exam.name = None"),
    ("exam", {5: "x"}, "exam.5"),
    ("exam", None, "exam = None"),
    ("tasks", {"towns": {"name": "cities", "train_rows": 0}}, "tasks.towns.train_rows = 0: .*gr"),
    ("tasks", {"towns": {"name": ["cities"]}}, r"tasks.towns.name = \['cities'\]"),
    ("tasks", {"towns": {5: "x"}}, "tasks.towns.5"),
    ("tasks", {5: {"name": "cities"}}, "tasks.5"),
    ("sequences", 5, "sequences = 5"),
    ("sequences", [5], "sequences.0 = 5"),
    ("sequences", [["icd10", 5]], "sequences.0.1 = 5"),
    ("sequences", [["icd10", ["x"]]], "sequences.0.1 = "),
    ("memory.rule", ["kl"], r"rule=\['kl'\] must be the name of a rule"),
    ("memory.rule", None, "rule=None must be the name of a rule"),
    ("memory.integration", {}, r"integration=\{\} is unknown"),
    ("methods.smf-kl.settings.rule", {"kl": 1}, r"methods.smf-kl: rule=\{'kl': 1\} must be the na"),
    ("methods.lora", None, "methods.lora = None"),
    ("methods.lora.settings", None, "methods.lora.settings = None"),
    ("methods.lora.settings", {5: 1}, "methods.lora.settings.5"),
    ("methods.lora.settings.r", None, "methods.lora.settings.r=None must be a number"),
    ("methods.lora.settings.r", [4], r"methods.lora.settings.r=\[4\] must be a number"),
    ("methods.lora.settings.r", True, "methods.lora.settings.r=True must be a number"),
    ("methods.lora.settings.lora_alpha", "8", "methods.lora.settings.lora_alpha='8' must be a num"),
    (
        "methods.lora.settings.target_modules",
        [["q_proj"]],
        r"methods.lora.settings.target_modules=\[\['q_proj'\]\] cannot be",
    ),
    ("methods.lora.training", {"epochs": None}, "methods.lora.training.epochs = None"),
    ("methods.smf-kl.background", {"tokens": [1]}, r"methods.smf-kl.background.tokens = \[1\]"),
    (
        "methods.smf-kl.background",
        {"text": {"seed": None}},
        "methods.smf-kl.background.text.seed.* = None",
    ),
    ("methods.lora.baseline", "nosuch", "baseline='nosuch' is unknown"),
    ("methods.lora.training", {"precision": "fp32"}, r"training has the fields \['precision'\]"),
    ("methods.lora.training", {"epochs": 0}, "methods.lora.training.epochs = 0: .*greater"),
    ("methods.lora.background", {"tokens": 4}, "reads no background"),
    ("methods.base.learning_rate", 1e-3, "kind='base' takes none"),
    ("methods.base.seeds", [0], "kind='base' is not trained; it takes no seeds"),
]


def changed(tmp_path, field, value):
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text()) | {"name": "mine"}
    place = content
    *above, last = field.split(".")
    for name in above:
        place = place.setdefault(name, {})
    place[last] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def refused(match, call, *arguments):
    """What is raised is a ValueError of few lines that says what `match` looks for."""
    with pytest.raises(ValueError, match=match) as raised:
        call(*arguments)
    assert len(str(raised.value).splitlines()) <= 4


@pytest.mark.parametrize(("field", "value", "match"), FIELDS)
def test_a_field_of_a_profile(field, value, match, tmp_path):
    refused(match, load_profile, changed(tmp_path, field, value))


def test_methods_that_start_from_each_other(tmp_path):
    arm = {"label": "x", "kind": "peft", "peft_type": "SPARSE_MEMORY", "learning_rate": 0.1}
    arm |= {"stage": "retrofit", "settings": {"update": "dense", "trainable": "memory"}}
    for starts in ({"a": "b", "b": "a"}, {"a": "a"}):
        methods = {name: arm | {"start": start} for name, start in starts.items()}
        path = changed(tmp_path, "methods", {"base": {"label": "Base", "kind": "base"}} | methods)
        content = yaml.safe_load(path.read_text())
        text = {"source": str(tmp_path), "rows": 8}
        content["retrofit"] = {"text": text, "training": content["training"]}
        path.write_text(yaml.safe_dump(content))
        refused("start='.' goes round in a circle", load_profile, path)


@pytest.mark.parametrize("source", ["~nobody-of-that-name/model", "a" * 300])
def test_a_source_that_is_no_path(source, tmp_path):
    refused("source='.* is no path that can be .*give a folder", locate, source, tmp_path)


@pytest.mark.parametrize("name", ["kept", "published", "benchmarks"])
def test_a_profile_of_a_name_that_is_taken(name, tmp_path):
    content = (PROFILE_DIR / "smoke.yaml").read_text().replace("name: smoke", f"name: {name}")
    (tmp_path / f"{name}.yaml").write_text(content)
    refused("is that of a folder that all profiles share", load_profile, tmp_path / f"{name}.yaml")


def test_a_user_file_that_is_not_utf_8(tmp_path):
    (tmp_path / "rule.py").write_bytes("# -*- coding: latin-1 -*-\n# \u00e9".encode("latin-1"))
    path = changed(tmp_path, "imports", ["rule.py"])
    refused("imports: .*rule.py cannot be read .*save it as UTF-8", load_profile, path)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    refused("the cache .* cannot be written .*XDG_CACHE_HOME", cached_folder, "m", full, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):  # what nobody foresaw stays what it is
        cached_folder("m", full, tmp_path / "file")


FILES = [  # the bytes of a profile's file
    (b"", "must be a YAML mapping"),
    (b"- a\n", "must be a YAML mapping"),
    (b"a: [", "is not YAML"),
    (b"\xff\xfea\x00", "is not text in UTF-8"),
    ("title: é".encode("latin-1"), "is not text in UTF-8"),
    (b"name: a\nname: b\n", "name stands twice"),
    (b"a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
    (b"a: &a [b]\nb: &b [*a, *a]\nc: *nosuch\n", "is not YAML"),
    (b"a: &a [*a]\n", "nested too deeply, or in itself"),
    (b"[" * 100_000, "nested too deeply|is not YAML"),
    (b"a: " + b"x" * 2_000_000, "has 2000003 bytes; at most"),
    (
        b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
        ),
        "entries, with its aliases written out",
    ),
]


@pytest.mark.parametrize(("content", "match"), FILES)
def test_the_file_of_a_profile(content, match, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    refused(match, load_profile, path)


RUNS = [
    (("lorra",), "method='lorra' is not in profile"),
    ((["lora"],), r"method=\['lora'\] is not in profile"),
    ((None,), "method=None is not in profile"),
    (("lora", -1), "seed=-1"),
    (("lora", 2**32), "seed=4294967296"),
    (("lora", True), "seed=True"),
    (("lora", None), "seed=None"),
    (("lora", 0, True), "learning_rate=True"),
    (("lora", 0, INF), "learning_rate=inf"),
    (("lora", 0, NAN), "learning_rate=nan"),
    (("lora", 0, "1e-3"), "learning_rate='1e-3'"),
    (("base", 0, 1e-3), "learning_rate=0.001: the base model is not trained"),
]


@pytest.mark.parametrize(("arguments", "match"), RUNS)
def test_the_arguments_of_a_run(arguments, match):
    refused(match, load_profile("smoke").run, *arguments)


@pytest.mark.parametrize("value", [None, 5, "", ["quick"], "nosuch", "a/nosuch.yaml", "a" * 300])
def test_the_profile_of_a_notebook(value):
    refused("profile='?.* (must be the name|does not exist)", Study.load, value)


@pytest.mark.parametrize("value", [None, 5, ["quick"]])
def test_the_records_that_a_notebook_shows(value):
    refused("profile=.* must be the name", records_folder, value)
    if not isinstance(value, list):
        refused("must be a list of names", load_profiles, value)


PAGES = [
    ({"methods": ["lora"]}, "methods=lora of profile 'smoke': pages compare"),
    ({"methods": ["base"]}, "methods=base of profile 'smoke': pages compare"),
    ({"probes": []}, r"evaluation.probes=\[\]"),
    ({"train_rows": 1}, "exam.train_rows=1 .*less than training.batch_size="),
]


@pytest.mark.parametrize(("changes", "match"), PAGES)
def test_what_pages_cannot_show(changes, match):
    profile, rows = load_profile("smoke"), 24
    check_pages(profile, rows)
    if "methods" in changes:
        methods = {name: profile.methods[name] for name in changes["methods"]}
        profile = profile.model_copy(update={"methods": methods})
    if "probes" in changes:
        without = profile.evaluation.model_copy(update={"probes": []})
        profile = profile.model_copy(update={"evaluation": without})
    refused(match, check_pages, profile, changes.get("train_rows", rows))


def test_a_background_longer_than_the_model_reads(tmp_path):
    refused(
        "background.tokens=5000 is more than",
        Study.load,
        changed(tmp_path, "background.tokens", 5000),
    )


MEMORY = [
    ({"layers": []}, r"layers=\[\]"),
    ({"layers": 5}, "layers=5"),
    ({"top_k": True}, "top_k=True"),
    ({"update": "half"}, "update='half' is unknown"),
    ({"trainable": None}, "trainable=None is unknown"),
    ({"gated": 1}, "gated=1 is unknown"),
    ({"seed": 0.5}, "seed=0.5"),
    ({"initial_scale": NAN}, "initial_scale=nan"),
    ({"key_dim": 10**6}, "key_dim=1000000 is too large"),
    ({"integration": "replacement", "trainable": "values+scale"}, "trainable='values"),
]


@pytest.mark.parametrize(("settings", "match"), MEMORY)
def test_the_settings_of_a_memory(settings, match):
    refused(match, lambda: SparseMemoryConfig(**settings))


MODELS = [  # a file of a model's folder and what stands in it instead
    ("config.json", b"{", "config.json is damaged"),
    ("config.json", b"[]", "config.json must hold a JSON object"),
    ("config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers=1000000"),
    ("config.json", {"num_hidden_layers": "4"}, "num_hidden_layers='4'"),
    (
        "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "m.C"}},
        "code in its folder is not run",
    ),
    ("config.json", {"model_type": "nosuch"}, "does not know model_type='nosuch'"),
    (
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["m.T", None]}, "tokenizer_class": "T0"},
        "tokenizer is code of its own",
    ),
    ("tokenizer_config.json", b"\xff", "tokenizer_config.json is damaged"),
    ("tokenizer.json", b"", "tokenizer.json is damaged"),
    ("generation_config.json", b"{'", "generation_config.json is damaged"),
    ("model.safetensors", b"", "model.safetensors is truncated"),
    ("model.safetensors", b"x" * 100, "model.safetensors is truncated"),
    ("config.json", None, "model.source: the folder .* needs config.json"),
    ("model.safetensors", None, "model.source: the folder .* needs config.json and at least one"),
    ("tokenizer.json", None, "its tokenizer cannot be used"),
    ("tokenizer.json", b"{}", "its tokenizer cannot be used"),
    ("config.json", {"hidden_size": -1}, "no model can be as its config.json says .*size"),
    ("config.json", {"hidden_act": "nosuch"}, "no model can be as its config.json says .*nosuch"),
    ("config.json", {"vocab_size": 10**9}, r"has the shape \[259, .* and \[1000000000, .* by conf"),
    ("config.json", {"intermediate_size": 8}, "mlp.* has the shape .* by config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content", "match"), MODELS)
def test_the_folder_of_a_model(file, content, match, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(resolve_model(ModelSettings(source="tiny-random")).path, folder)
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content).encode()
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    (folder / "m.py").write_text("raise SystemExit('ran')")
    path = changed(tmp_path, "model.source", str(folder))
    refused(match, Study.load, path)


def questions(count=6, **changes):
    """Questions as lines of JSON, each with `changes`."""
    row = {"options": ["a", "b", "c"], "answer": 0}
    rows = [{"question": f"What is {n}?", **row, **changes} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


DATA = [  # the file of an exam's questions, and what the line says
    ("x.jsonl", None, "exam.source.* is no file|exam.source='.*x.jsonl'"),
    ("x.jsonl", b"", "exam.source='.*x.jsonl' cannot be read"),
    ("x.jsonl", b"{", "exam.source='.*x.jsonl' cannot be read"),
    ("x.jsonl", b"\xff\xfe\x00", "exam.source='.*x.jsonl' cannot be read"),
    ("x.jsonl", b"[1, 2]\n", "exam.source='.*x.jsonl' (cannot be read|has the columns)"),
    ("x.jsonl", questions()[:-20], "exam.source='.*x.jsonl' cannot be read"),
    ("x.jsonl", b'{"question": "a", "answer": 1}\n', "exam.source='.*lacks options"),
    ("x.jsonl", questions(answer=9), "exam.source: row 0 of .* has answer=9 and the options"),
    ("x.jsonl", questions(answer="d"), "exam.source: row 0 of .* has answer='d'"),
    ("x.jsonl", questions(answer=-1), "exam.source: row 0 of .* has answer=-1"),
    ("x.jsonl", questions(answer=None), "test_rows"),
    ("x.jsonl", questions(options=["a"]), "test_rows"),
    ("x.jsonl", questions(options=[]), "test_rows|cannot be read"),
    ("x.jsonl", questions(question=None), "test_rows"),
    ("x.jsonl", questions(count=1), "test_rows"),
    (
        "x.jsonl",
        questions(count=2),
        "test_rows=2 .*the first half of the file' has left; lower exam.test_rows$",
    ),
    ("x.parquet", questions(), "exam.source='.*x.parquet' cannot be read"),
    ("x.csv", b'question,options,answer\n"a', "exam.source='.*x.csv' cannot be read|test_rows"),
    ("x.txt", questions(), "exam.source='.*x.txt': files must all be of one kind"),
    ("x", questions(), "exam.source='.*x': files must all be of one kind"),
]


@pytest.mark.parametrize(("name", "content", "match"), DATA)
def test_the_file_of_an_exam(name, content, match, tmp_path, datasets_cache):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    exam = {"name": "choice", "source": str(tmp_path / name), "test_rows": 2}
    settings = load_profile(changed(tmp_path, "exam", exam)).exam
    refused(match, build_exam, settings, tmp_path)


SETS = "data sets"  # a folder that is named after the set, with a file a split


def lines(*rows):
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def medmcqa(**changes):
    return lines(*(medmcqa_row(n, **changes) for n in range(4)))


def trivia(**changes):
    return lines(*(trivia_row(n, **changes) for n in range(4)))


DATA_SETS = [  # the file of a data set, and what the line says
    ("medmcqa/train.jsonl", None, "exam.source='data sets/medmcqa'.*no rows of split 'train'"),
    ("medmcqa/train.jsonl", b"", "exam.source='data sets/medmcqa'"),
    ("medmcqa/train.jsonl", medmcqa()[:-9], "exam.source=.*no rows of split 'train'"),
    ("medmcqa/train.jsonl", b"\xff\xfe\x00", "exam.source=.*no rows of split 'train'"),
    ("medmcqa/train.jsonl", b"[1, 2]\n", "exam.source='data sets/medmcqa'"),
    ("medmcqa/train.jsonl", lines({"question": "a", "cop": 1}), "exam.source=.*lacks opa, opb"),
    ("medmcqa/train.jsonl", medmcqa(cop=4), "exam.train_split: row 0 has cop=4; labels are 0 to 3"),
    ("medmcqa/validation.jsonl", medmcqa(cop=-1), "exam.test_split: row 0 has cop=-1"),
    ("medmcqa/train.jsonl", medmcqa(cop="b"), "exam.train_split: row 0 has cop='b'"),
    ("medmcqa/train.jsonl", medmcqa(cop=1.5), "exam.train_split: row 0 has cop=1.5"),
    ("medmcqa/train.jsonl", medmcqa(cop=True), "exam.train_split: row 0 has cop=True"),
    ("medmcqa/train.jsonl", medmcqa(cop=None), "exam.train_split: row 0 has cop=None"),
    ("medmcqa/train.jsonl", medmcqa(opb=None), "exam.train_split='train': no row of .* has a"),
    ("medmcqa/validation.jsonl", medmcqa(question=None), "exam.test_split='validation': no row"),
    ("medmcqa/validation.jsonl", medmcqa(opa="", opb=""), "exam.test_split='validation': no row"),
    ("medmcqa/train.jsonl", medmcqa(choice_type="multi"), "or set exam.single_choice to false"),
    ("trivia_qa/validation.jsonl", None, "probes.triviaqa.source='data sets/trivia_qa'"),
    ("trivia_qa/validation.jsonl", b"{", "probes.triviaqa.source=.*no rows of split"),
    ("trivia_qa/validation.jsonl", lines({"question": "a"}), "probes.triviaqa.source=.*lacks ans"),
    ("trivia_qa/validation.jsonl", trivia()[:50], "probes.triviaqa.source=.*no rows of split"),
    ("trivia_qa/validation.jsonl", trivia(answer=None), "probes.triviaqa: row 0 of 'validation'"),
    ("trivia_qa/validation.jsonl", trivia(answer="Rome"), "probes.triviaqa: row 0 of 'validation'"),
    ("trivia_qa/validation.jsonl", trivia(answer=["a"]), "probes.triviaqa: row 0 of 'validation'"),
    (
        "trivia_qa/validation.jsonl", trivia(answer={"value": "<unk>", "aliases": []}),
        "probes.triviaqa: row 0 of 'validation' .*name a split with answers",
    ),
    (
        "trivia_qa/validation.jsonl", trivia(answer={"value": "a", "aliases": "a"}),
        "probes.triviaqa: row 0 of 'validation'",
    ),
    (
        "trivia_qa/validation.jsonl", trivia(answer={"value": "a", "aliases": [1, 2]}),
        "probes.triviaqa: row 0 of 'validation'",
    ),
    (
        "trivia_qa/validation.jsonl", trivia(answer={"value": 5, "aliases": ["a"]}),
        "probes.triviaqa: row 0 of 'validation'",
    ),
    ("trivia_qa/validation.jsonl", trivia(question=None), "probes.triviaqa: row 0"),
    ("trivia_qa/validation.jsonl", trivia(question=7), "probes.triviaqa: row 0"),
    ("trivia_qa/train.jsonl", lines(trivia_row(1)), "probes.triviaqa.shots=2 is more than the 1"),
    ("wikitext/test.jsonl", None, "probes.wikitext.source='data sets/wikitext'"),
    ("wikitext/test.jsonl", b"\x00\xff", "probes.wikitext.source=.*no rows of split 'test'"),
    ("wikitext/test.jsonl", lines({"texts": "a"}), "probes.wikitext.source=.*lacks text"),
    ("wikitext/test.jsonl", lines({"text": ""}), "probes.wikitext.lines=4 is more than the 0"),
    ("wikitext/test.jsonl", lines({"text": None}), "probes.wikitext.lines=4 is more than the 0"),
    ("wikitext/test.jsonl", lines({"text": 5}), "probes.wikitext.lines=4 is more than the 0"),
    ("wikitext/test.parquet", b"PAR1", "probes.wikitext.source=.*two data files of one split"),
    ("oasst1/train.jsonl", lines({"answer": "a"}), "background.text.source=.*`text` or `response`"),
    ("oasst1/train.jsonl", lines({"text": "a" * 99}), "background.sequences=8 is more than the 1"),
    ("oasst1/train.jsonl", lines({"text": None}), "background.sequences=8 is more than the 0"),
    ("oasst1/train.jsonl", lines({"text": ["a"]}), "background.sequences=8 is more than the 0"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content", "match"), DATA_SETS)
def test_the_file_of_a_public_data_set(file, content, match, tmp_path, datasets_cache):
    write_data(tmp_path / SETS)
    path = tmp_path / SETS / file
    path.unlink() if content is None else path.write_bytes(content)
    profile = changed(
        tmp_path, "exam",
        {"name": "medmcqa", "source": f"{SETS}/medmcqa", "train_rows": 2, "test_rows": 2},
    )  # fmt: skip
    whole = yaml.safe_load(profile.read_text())
    whole["probes"] |= {
        "wikitext": {"source": f"{SETS}/wikitext", "lines": 4},
        "triviaqa": {"source": f"{SETS}/trivia_qa", "questions": 2, "shots": 2},
    }
    whole["background"]["text"] = {"source": f"{SETS}/oasst1"}
    profile.write_text(yaml.safe_dump(whole))
    refused(match, Study.load, str(profile), tmp_path)


SECONDS = 10  # of the processor; an idle machine takes no longer
RUN = ["-m", "smf_lib.study", "run", "--profile"]
NOTEBOOK = ["smf_lib/study/notebooks.py", "notebooks/02_finetune.ipynb", "out.ipynb", "-p"]
COMMANDS = [  # what is typed after `python`, and what the line says
    ([*RUN, "nosuch"], "nosuch"),
    ([*RUN, "smoke", "--method", "lorra"], "method='lorra' is not in profile 'smoke'"),
    ([*RUN, "smoke", "--method", "lora", "--seed", "-1"], "seed=-1"),
    ([*RUN, "smoke", "--method", "lora", "--learning-rate", "-1"], "learning_rate=-1.0"),
    ([*RUN, "smoke", "--jobs", "0"], "jobs"),
    ([*RUN, "smoke", "--seconds", "5"], "needs --jobs"),
    ([*RUN, "{broken}"], "exam.train_rows = 0"),
    ([*RUN, "{unknown}"], "model.source"),
    (["-m", "smf_lib.study", "keys", "--profile", "nosuch"], "nosuch"),
    (["-m", "smf_lib.report.book", "stage", "--profile", "nosuch"], "nosuch"),
    ([*NOTEBOOK, "seed", "x"], "seed='x' must be int"),
    ([*NOTEBOOK, "sed", "1"], "sed=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "match"), COMMANDS)
def test_a_wrong_command_is_refused_within_seconds(typed, match, tmp_path):
    files = {"broken": ("exam.train_rows", 0), "unknown": ("model.source", "/nosuch/model")}
    for name, (field, value) in files.items():
        (tmp_path / name).mkdir()
        files[name] = str(changed(tmp_path / name, field, value))
    typed = [part.format(**files) for part in typed]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *typed], cwd=PROFILE_DIR.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode != 0 and match in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < SECONDS, f"{spent:.1f} s"
